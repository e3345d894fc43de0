//! The state of a bus that all implementations share: the subscriptions, and an inbox of messages
//! and events. The inbox is delivered in calls of the loop, never inside a call of the user, and
//! one item at a time; after a panic of a subscriber, the next call continues.
//!
//! Contract: 201, 206, 209, 230, 232, 233.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};

use bytes::Bytes;
use couplet_core::defer::DeferredEvent;
use couplet_core::hooks::{Note, NoteRow};
use couplet_core::services::Health;
use couplet_core::{Deferred, Reactor, Resolver, hooks};

use crate::bus::Bus;
use crate::error::{NotConfirmed, PublishError};
use crate::event::{Counts, Event};
use crate::log::{Engine, LogLimits};
use crate::message::Message;
use crate::numbers::{Received, Sent, take_number};
use crate::redis::{CommandError, Reply};
use crate::requests::Requests;
use crate::subject::{Pattern, SubjectError};

/// A way to other buses. Messages that it gets go to [`Core::push`].
pub(crate) trait Backend {
    /// Begins, or begins again after a [`close`](Self::close).
    fn open(&self);
    /// The kind of bus, for people.
    fn kind(&self) -> &'static str;
    /// A name that no other bus gets.
    fn unique(&self) -> String;
    /// The engine of a log.
    fn log_engine(&self, bus: &Bus, name: &str, limits: &LogLimits) -> Rc<dyn Engine>;
    /// Sends a message that was checked, but for its size.
    fn publish(&self, message: &Message) -> Result<(), PublishError>;
    fn subscribe(&self, id: u64, pattern: &Pattern) -> Result<(), SubjectError>;
    fn unsubscribe(&self, id: u64);
    /// Ends all subscriptions but this one; messages that were sent to them before still arrive.
    fn end_subscriptions(&self, except: Option<u64>);
    /// Has [`Core::push_flushed`] called when everything before was processed.
    fn flush(&self, confirmed: Resolver<()>);
    /// Sends a command of Redis, whose answer is an error without a connection.
    fn command(&self, _command: Bytes, answer: Resolver<Reply>) {
        answer.errback(CommandError::NotRedis);
    }
    /// Takes the messages that other threads have left.
    fn collect(&self) {}
    fn close(&self);
    fn health(&self) -> Health;
}

/// An entry of the inbox.
pub(crate) enum Item {
    Message {
        id: u64,
        message: Message,
    },
    Event(Event),
    /// A call of user code.
    Call(Box<dyn FnOnce()>),
}

/// A function that gets the messages of a subscription.
type Receive = Box<dyn FnMut(Message)>;

type Observer = Rc<dyn Fn(&Event)>;

struct Subscriber {
    pattern: Pattern,
    numbers: Received,
    /// Borrowed only while it runs, and only `dispatch` runs it.
    receive: RefCell<Receive>,
}

pub(crate) struct Core {
    reactor: Reactor,
    me: Weak<Core>,
    backend: Rc<dyn Backend>,
    is_closed: Cell<bool>,
    subscribers: RefCell<BTreeMap<u64, Rc<Subscriber>>>,
    last: Cell<u64>,
    inbox: RefCell<VecDeque<Item>>,
    is_called: Cell<bool>,
    requests: RefCell<Option<Requests>>,
    observer: RefCell<Option<Observer>>,
    counts: Cell<Counts>,
    numbers: Sent,
    /// The connection is lost.
    lost: DeferredEvent,
    /// The appends of the logs that have not ended.
    appends: Cell<usize>,
    /// Set when all have ended.
    appended: DeferredEvent,
    /// The drains in progress.
    drains: Cell<usize>,
    /// Set when the bus is closed.
    closed: DeferredEvent,
    /// The bus's row in the snapshots of its loop.
    _row: Note,
}

/// Calls the loop again if a panic ends the delivery.
struct Continuing<'a>(&'a Core);

impl Drop for Continuing<'_> {
    fn drop(&mut self) {
        self.0.is_called.set(false);
        if !self.0.inbox.borrow().is_empty() {
            self.0.call();
        }
    }
}

impl Core {
    pub(crate) fn new(
        reactor: &Reactor,
        backend: impl FnOnce(&Weak<Core>) -> Rc<dyn Backend>,
    ) -> Rc<Core> {
        let core = Rc::new_cyclic(|me| Core {
            reactor: reactor.clone(),
            me: me.clone(),
            backend: backend(me),
            is_closed: Cell::new(false),
            subscribers: RefCell::default(),
            last: Cell::new(0),
            inbox: RefCell::default(),
            is_called: Cell::new(false),
            requests: RefCell::new(None),
            observer: RefCell::new(None),
            counts: Cell::default(),
            numbers: Sent::default(),
            lost: DeferredEvent::new(),
            appends: Cell::new(0),
            appended: DeferredEvent::new(),
            drains: Cell::new(0),
            closed: DeferredEvent::new(),
            _row: {
                let me = me.clone();
                hooks::note_rows(reactor, move || {
                    me.upgrade().iter().map(|core| core.row()).collect()
                })
            },
        });
        core.appended.set();
        core.backend.open();
        core
    }

    pub(crate) fn reactor(&self) -> &Reactor {
        &self.reactor
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts.get()
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    fn row(&self) -> NoteRow {
        let Counts {
            published,
            delivered,
            lost,
            missed,
            dropped,
            oversized,
            connects,
            unconfirmed,
            errors: _,
        } = self.counts();
        let counts = [
            ("published", published),
            ("delivered", delivered),
            ("lost", lost),
            ("missed", missed),
            ("dropped", dropped),
            ("oversized", oversized),
            ("unconfirmed", unconfirmed),
            ("connects", connects),
        ];
        let counts = counts.map(|(name, count)| (name, count.to_string()));
        let words =
            [("bus", self.backend.kind().to_owned()), ("health", self.health().to_string())];
        NoteRow::new("buses", words.into_iter().chain(counts))
    }

    pub(crate) fn observe(&self, observer: impl Fn(&Event) + 'static) {
        let _old = self.observer.replace(Some(Rc::new(observer)));
    }

    pub(crate) fn publish(&self, message: &Message) -> Result<(), PublishError> {
        message.check()?;
        if self.is_closed.get() {
            return Err(PublishError::Closed);
        }
        let result = match message.is_numbered() {
            true => {
                let publish = |numbered: &Message| self.backend.publish(numbered);
                self.numbers.publish(message, || self.unique(), publish)
            }
            false => self.backend.publish(message),
        };
        match result {
            Ok(()) => self.count(|counts| counts.published += 1),
            Err(PublishError::Full) => self.report_lost(1),
            Err(_) => {}
        }
        result
    }

    pub(crate) fn subscribe(
        &self,
        pattern: Pattern,
        receive: impl FnMut(Message) + 'static,
    ) -> Result<u64, SubjectError> {
        pattern.check()?;
        let id = self.last.get() + 1;
        self.last.set(id);
        self.backend.subscribe(id, &pattern)?;
        let receive: RefCell<Receive> = RefCell::new(Box::new(receive));
        let subscriber = Rc::new(Subscriber { pattern, receive, numbers: Received::default() });
        self.subscribers.borrow_mut().insert(id, subscriber);
        Ok(id)
    }

    pub(crate) fn unsubscribe(&self, id: u64) {
        let removed = self.subscribers.borrow_mut().remove(&id);
        if removed.is_some() {
            self.backend.unsubscribe(id);
        }
    }

    /// The pending requests, whose inbox is subscribed at the first.
    pub(crate) fn requests(&self) -> Result<Requests, PublishError> {
        if self.is_closed.get() {
            return Err(PublishError::Closed);
        }
        let made = self.requests.borrow().clone();
        made.map_or_else(
            || {
                let requests = Requests::new(self)?;
                let _none = self.requests.replace(Some(requests.clone()));
                Ok(requests)
            },
            Ok,
        )
    }

    /// The pattern of a subscription, for events.
    pub(crate) fn pattern(&self, id: u64) -> Option<String> {
        self.subscribers.borrow().get(&id).map(|known| known.pattern.to_string())
    }

    pub(crate) fn flush(&self) -> Deferred<()> {
        if self.is_closed.get() {
            return Deferred::fail(NotConfirmed);
        }
        let (flushed, confirmed) = Deferred::new();
        self.backend.flush(confirmed);
        flushed
    }

    /// Ends the subscriptions, delivers the messages that have arrived, waits for the appends,
    /// sends the queued messages, and closes once no other drain has messages to send.
    pub(crate) fn drain(self: &Rc<Self>) -> Deferred<()> {
        // Appends get their answers as replies.
        let replies = self.requests.borrow().as_ref().map(Requests::subscription);
        self.backend.end_subscriptions(replies);
        let [appending, draining, closing, closed] = [(); 4].map(|()| self.clone());
        self.drains.set(self.drains.get() + 1);
        self.flush()
            .then(move |()| appending.appended.wait())
            .then(move |()| draining.flush())
            .add_both(move |result| {
                closing.drains.set(closing.drains.get() - 1);
                if result.is_err() || closing.drains.get() == 0 {
                    closing.close();
                }
                result
            })
            .then(move |()| closed.closed.wait())
    }

    /// An append of a log begins.
    pub(crate) fn append_begun(&self) {
        self.appends.set(self.appends.get() + 1);
        self.appended.clear();
    }

    /// An append was stored, or has failed.
    pub(crate) fn append_ended(&self) {
        self.appends.set(self.appends.get() - 1);
        if self.appends.get() == 0 {
            self.appended.set();
        }
    }

    pub(crate) fn open(&self) {
        if self.is_closed.replace(false) {
            self.closed.clear();
            if self.appends.get() > 0 {
                self.appended.clear();
            }
            self.backend.open();
        }
    }

    pub(crate) fn close(&self) {
        if !self.is_closed.replace(true) {
            self.backend.close();
            let (_subscribers, _requests) = (self.subscribers.take(), self.requests.take());
            // A drain fails, although an append may take a moment to fail.
            self.appended.set();
            self.closed.set();
        }
    }

    pub(crate) fn health(&self) -> Health {
        match self.is_closed.get() {
            true => Health::Failed("the bus is closed".to_owned()),
            false => self.backend.health(),
        }
    }

    /// Sends a command of Redis.
    #[track_caller]
    pub(crate) fn command(&self, command: Bytes) -> Deferred<Reply> {
        let (replied, answer) = Deferred::new();
        self.backend.command(command, answer);
        replied
    }

    pub(crate) fn unique(&self) -> String {
        self.backend.unique()
    }

    pub(crate) fn log_engine(&self, bus: &Bus, name: &str, limits: &LogLimits) -> Rc<dyn Engine> {
        self.backend.log_engine(bus, name, limits)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    /// Fires when the connection is lost.
    pub(crate) fn lost(&self) -> Deferred<()> {
        self.lost.wait()
    }

    /// The connection was lost.
    pub(crate) fn connection_lost(&self) {
        self.lost.set();
        self.lost.clear();
    }

    pub(crate) fn collect(&self) {
        self.backend.collect();
    }

    /// Adds to the inbox, which the next turn delivers.
    pub(crate) fn push(&self, item: Item) {
        self.inbox.borrow_mut().push_back(item);
        self.call();
    }

    /// Adds a message, behind a report of those that are missing before it.
    pub(crate) fn push_message(&self, id: u64, mut message: Message) {
        let number = take_number(&mut message);
        let subscriber = self.subscribers.borrow().get(&id).cloned();
        // The others of a group get the numbers between.
        let counting = subscriber.filter(|subscriber| subscriber.pattern.group_name().is_none());
        let missed =
            counting.zip(number).map(|(counting, n)| counting.numbers.missed(&message, &n));
        let messages = missed.unwrap_or(0);
        if messages > 0 {
            self.count(|counts| counts.missed = counts.missed.saturating_add(messages));
            self.report(Event::Missed { subject: message.subject().to_owned(), messages });
        }
        self.push(Item::Message { id, message });
    }

    /// A flush was confirmed: its Deferred fires behind the messages that arrived before.
    pub(crate) fn push_flushed(&self, confirmed: Resolver<()>) {
        self.push(Item::Call(Box::new(move || confirmed.callback(()))));
    }

    pub(crate) fn report(&self, event: Event) {
        self.push(Item::Event(event));
    }

    /// Counts and reports lost messages, with one event for those before its delivery.
    pub(crate) fn report_lost(&self, more: u64) {
        self.count(|counts| counts.lost += more);
        if let Some(Item::Event(Event::Lost { messages })) = self.inbox.borrow_mut().back_mut() {
            *messages += more;
            return;
        }
        self.report(Event::Lost { messages: more });
    }

    fn call(&self) {
        if !self.is_called.replace(true) {
            let me = self.me.clone();
            self.reactor.call_soon(move || {
                if let Some(core) = me.upgrade() {
                    core.deliver_inbox();
                }
            });
        }
    }

    /// Delivers the items that are in the inbox by now; later ones get another call.
    fn deliver_inbox(&self) {
        let continuing = Continuing(self);
        let items = self.inbox.borrow().len();
        for _ in 0..items {
            let item = self.inbox.borrow_mut().pop_front();
            item.into_iter().for_each(|item| self.dispatch(item));
        }
        drop(continuing);
    }

    fn dispatch(&self, item: Item) {
        match item {
            Item::Message { id, message } => {
                let subscriber = self.subscribers.borrow().get(&id).cloned();
                if let Some(subscriber) = subscriber {
                    self.count(|counts| counts.delivered += 1);
                    (subscriber.receive.borrow_mut())(message);
                }
            }
            Item::Event(event) => {
                let observer = self.observer.borrow().clone();
                if let Some(observer) = observer {
                    observer(&event);
                }
            }
            Item::Call(call) => call(),
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.close();
    }
}
