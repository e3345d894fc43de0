//! Numbered messages: a subscription counts those that it has missed.
//!
//! A publisher numbers its messages to a subject: 1, 2, 3. A header has the publisher's name and
//! the number.
//!
//! Contract: 233.

use std::cell::RefCell;
use std::collections::BTreeMap;

use couplet_defer::bounded::{AtMost, Bounded};

use crate::error::PublishError;
use crate::message::Message;

/// The header: a publisher and a number, separated by a space.
const HEADER: &str = "Couplet-Number";
/// The most subjects of a publisher, and the most subjects and publishers of a subscription, whose
/// numbers are remembered. One more, and all of them begin anew.
pub(crate) const MOST: usize = 4096;
/// The longest name of a publisher, in bytes. A bus may have other users.
const PUBLISHER: usize = 128;

type LastNumbers<K> = Bounded<BTreeMap<K, u64>, AtMost<MOST>>;

/// The numbers that a bus has used.
#[derive(Default)]
pub(crate) struct Sent {
    publisher: RefCell<String>,
    /// The last number, by subject.
    last: RefCell<LastNumbers<String>>,
}

impl Sent {
    /// Publishes a message with the next number, which is used up if the message is accepted.
    /// `unique` makes a name for the publisher, when its numbers begin.
    pub(crate) fn publish(
        &self,
        message: &Message,
        unique: impl FnOnce() -> String,
        publish: impl FnOnce(&Message) -> Result<(), PublishError>,
    ) -> Result<(), PublishError> {
        let subject = message.subject();
        let mut last = self.last.borrow_mut();
        if last.is_empty() || (last.is_full() && !last.contains_key(subject)) {
            last.edit().clear();
            self.publisher.replace(unique());
        }
        let number = last.get(subject).copied().unwrap_or(0) + 1;
        let numbered = format!("{} {number}", self.publisher.borrow());
        let mut message = message.clone();
        let _other = message.take_header(HEADER);
        publish(&message.header(HEADER, numbered))?;
        last.edit().insert(subject.to_owned(), number);
        Ok(())
    }
}

/// The numbers that a subscription has seen.
#[derive(Default)]
pub(crate) struct Received {
    /// The last number, by publisher and subject.
    last: RefCell<LastNumbers<(String, String)>>,
}

impl Received {
    /// The messages that are missing between this one and the last one of its publisher to its
    /// subject, by the header `value`.
    pub(crate) fn missed(&self, message: &Message, value: &str) -> u64 {
        let Some((publisher, number)) = parse(value) else { return 0 };
        let mut last = self.last.borrow_mut();
        let key = (publisher.to_owned(), message.subject().to_owned());
        if last.is_full() && !last.contains_key(&key) {
            last.edit().clear();
        }
        let before = last.edit().insert(key, number);
        before.map_or(0, |before| number.saturating_sub(before.saturating_add(1)))
    }
}

/// Removes the number of a message that has arrived: it means nothing if the program publishes the
/// message again.
pub(crate) fn take_number(message: &mut Message) -> Option<String> {
    message.take_header(HEADER)
}

fn parse(value: &str) -> Option<(&str, u64)> {
    let (publisher, number) = value.split_once(' ')?;
    let number = number.parse().ok()?;
    (publisher.len() <= PUBLISHER).then_some((publisher, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Publishes to a subject, and returns the message as it leaves.
    fn publish(sent: &Sent, subject: &str) -> Message {
        let mut left = None;
        let published = sent.publish(
            &Message::new(subject, ""),
            || "ada".to_owned(),
            |message| {
                left = Some(message.clone());
                Ok(())
            },
        );
        published.expect("it is accepted");
        left.expect("a message")
    }

    fn numbered(value: &str) -> Message {
        Message::new("a", "").header(HEADER, value)
    }

    /// The messages that are missing before one that arrives.
    fn missed(received: &Received, mut message: Message) -> u64 {
        let number = take_number(&mut message);
        assert_eq!(message.find_header(HEADER), None);
        number.map_or(0, |number| received.missed(&message, &number))
    }

    #[test]
    fn c233_gaps_between_the_numbers_of_a_publisher_to_a_subject_are_counted() {
        let (sent, received) = (Sent::default(), Received::default());
        let [one, _two, three, other] = ["a", "a", "a", "b"].map(|subject| publish(&sent, subject));
        let bob = numbered("bob 7");
        let before = [one, other, bob, three].map(|message| missed(&received, message));
        assert_eq!(before, [0, 0, 0, 1]);
        assert_eq!(missed(&received, numbered("bob 18446744073709551615")), u64::MAX - 8);
        assert_eq!(missed(&received, numbered("bob 1")), 0, "it counts from there");
        assert_eq!(missed(&received, numbered("bob 3")), 1);
    }

    #[test]
    fn c233_a_refused_message_uses_no_number() {
        let sent = Sent::default();
        publish(&sent, "a");
        let message = Message::new("a", "");
        let refused = sent.publish(&message, String::new, |_| Err(PublishError::Full));
        assert!(matches!(refused, Err(PublishError::Full)));
        assert_eq!(publish(&sent, "a").find_header(HEADER), Some("ada 2"));
    }

    #[test]
    fn c233_a_republished_message_gets_a_new_number() {
        let mut left = Vec::new();
        let again = numbered("bob 7");
        let published = Sent::default().publish(
            &again,
            || "ada".to_owned(),
            |message| {
                left.extend(message.headers().map(|(_, value)| value.to_owned()));
                Ok(())
            },
        );
        assert!(published.is_ok());
        assert_eq!(left, ["ada 1"]);
    }

    #[test]
    fn c233_at_most_4096_numbers_are_remembered() {
        let (sent, received) = (Sent::default(), Received::default());
        for n in 0..=MOST {
            assert_eq!(missed(&received, publish(&sent, &n.to_string())), 0);
        }
        assert_eq!((sent.last.borrow().len(), received.last.borrow().len()), (1, 1));
    }

    #[test]
    fn c233_headers_of_others_are_ignored() {
        let received = Received::default();
        let long = format!("{} 1", "x".repeat(PUBLISHER + 1));
        for value in ["", "ada", "ada x", "ada -1", "ada 18446744073709551616", &long] {
            assert_eq!(missed(&received, numbered(value)), 0);
        }
        assert!(received.last.borrow().is_empty());
    }
}
