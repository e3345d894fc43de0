//! The near end: the protocol and the producer.

use std::rc::Rc;

use couplet::{Producer, ProducerKind, Protocol, Reason, Transport};

use super::{Life, bytes_at};

pub(super) struct NearEnd(pub(super) Rc<Life>);

impl Protocol for NearEnd {
    fn connection_made(&mut self, transport: &Transport) {
        self.0.know(|story| {
            story.made += 1;
            story.transport = Some(transport.clone());
        });
        self.0.called("made", || self.0.act_some(transport));
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let life = &self.0;
        life.check(!data.is_empty(), "data_received has at least one byte");
        life.check(!life.know(|story| story.paused), "data while paused");
        life.check(!life.know(|story| story.read_closed), "data after read_closed");
        let offset = life.know(|story| {
            story.delivered += data.len();
            story.delivered - data.len()
        });
        life.check(data == bytes_at(offset, data.len()), "bytes in are in order");
        life.reading_called(&format!("data {}", data.len()), || life.act_some(transport));
    }

    fn read_closed(&mut self, transport: &Transport) {
        let life = &self.0;
        life.check(!life.know(|story| story.paused), "read_closed while paused");
        let (fin, all, twice) = life.know(|story| {
            let twice = std::mem::replace(&mut story.read_closed, true);
            (story.fin, story.delivered == story.pushed, twice)
        });
        life.check(fin && !twice, "read_closed comes once, and only after a FIN");
        life.check(all, "read_closed comes after the last byte");
        life.reading_called("read_closed", || {
            if life.roll(2) == 0 {
                life.line("lose");
                transport.lose_connection();
                life.know(|story| story.closing = true);
            }
            life.act_some(transport);
        });
    }

    fn write_closed(&mut self, transport: &Transport) {
        let life = &self.0;
        let twice = life.know(|story| std::mem::replace(&mut story.write_closed, true));
        life.check(!twice, "write_closed comes once");
        life.check(life.know(|story| story.finishing), "write_closed comes only after lose_write");
        life.check(!life.know(|story| story.panicked), "write_closed after a panic");
        life.called("write_closed", || life.act_some(transport));
    }

    fn draining(&mut self, transport: &Transport) {
        let life = &self.0;
        let twice = life.know(|story| std::mem::replace(&mut story.draining, true));
        life.check(!twice && transport.is_draining(), "draining comes once");
        life.check(!life.know(|story| story.closing), "draining after a close");
        life.called("draining", || life.act_some(transport));
    }

    fn reading_resumed(&mut self, transport: &Transport) {
        let life = &self.0;
        life.check(!life.know(|story| story.paused), "reading_resumed while paused");
        life.reading_called("resumed", || life.act_some(transport));
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        let life = &self.0;
        life.called(&format!("lost {reason:?}"), || {
            life.know(|story| story.lost = Some(reason.clone()));
            life.check(
                life.know(|story| story.producer.is_none()),
                "stop_producing comes before connection_lost",
            );
            life.act_some(transport);
        });
    }
}

/// Registers successfully only if no other producer is registered.
pub(super) struct Probe;

impl Producer for Probe {
    fn resume_producing(&mut self) {}
}

pub(super) struct Piper {
    pub(super) life: Rc<Life>,
    pub(super) transport: Transport,
    pub(super) number: usize,
    pub(super) kind: ProducerKind,
}

impl Piper {
    fn called(&mut self, what: &str, f: impl FnOnce(&mut Self)) {
        let life = self.life.clone();
        let mine = life.know(|story| story.producer == Some(self.number));
        life.check(mine, "a call to a producer that is not registered");
        life.called(&format!("{what} {}", self.number), || f(self));
    }
}

impl Producer for Piper {
    fn resume_producing(&mut self) {
        if self.kind == ProducerKind::Push {
            let was = self.life.know(|story| std::mem::replace(&mut story.producer_paused, false));
            self.life.check(was, "a push producer is resumed only after a pause");
        }
        self.called("producer resumed", |piper| {
            if piper.life.roll(3) > 0 {
                piper.life.write(&piper.transport);
            }
            piper.life.act_some(&piper.transport);
        });
    }

    fn pause_producing(&mut self) {
        self.life.check(self.kind == ProducerKind::Push, "a pull producer is never paused");
        let was = self.life.know(|story| std::mem::replace(&mut story.producer_paused, true));
        self.life.check(!was, "paused twice");
        self.called("producer paused", |piper| piper.life.act_some(&piper.transport));
    }

    fn stop_producing(&mut self) {
        let (life, number) = (self.life.clone(), self.number);
        let twice = life.know(|story| std::mem::replace(&mut story.producers[number], true));
        life.check(!twice, "stop_producing comes once, and never after an unregister");
        if life.know(|story| story.producer == Some(number)) {
            life.called(&format!("producer stopped {number}"), || {
                // The connection is ending.
                life.know(|story| (story.producer, story.closing) = (None, true));
                life.act_some(&self.transport);
            });
        } else {
            // Registered too late, perhaps after the loss.
            life.line(&format!("late producer stopped {number}"));
            life.check(life.depth.get() == 0, "stop_producing inside a callback");
        }
    }
}
