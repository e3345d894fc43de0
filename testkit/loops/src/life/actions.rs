//! Actions of the near end, from inside a callback or from outside.

use std::rc::Rc;
use std::time::Duration;

use couplet::transport::Timeout;
use couplet::{Failure, ProducerKind, Transport, hooks};

use super::near::{NearEnd, Piper, Probe};
use super::{Life, Timer, bytes_at};

impl Life {
    /// One random action of the near end.
    pub(super) fn act(self: &Rc<Life>, transport: &Transport) {
        match self.roll(40) {
            0..=9 => self.write(transport),
            10..=12 => self.pause(transport),
            13..=16 => self.resume(transport),
            17 => {
                self.line("lose");
                transport.lose_connection();
                self.know(|story| story.closing = true);
            }
            18 => {
                self.line("lose_write");
                transport.lose_write_connection();
                self.know(|story| story.finishing = true);
            }
            19 if self.roll(3) == 0 => {
                self.line("abort");
                transport.abort_connection();
                self.know(|story| (story.aborted, story.closing) = (true, true));
            }
            20 if self.roll(3) == 0 => {
                self.line("fail");
                transport.fail(Failure::msg("a random life"));
                self.know(|story| (story.failed, story.closing) = (true, true));
            }
            21..=23 => self.register(transport),
            24..=26 => self.unregister(transport),
            27 => {
                let after = (self.roll(3) > 0).then(|| Duration::from_secs(self.roll(20) as u64));
                self.line(&format!("idle {after:?}"));
                transport.set_timeout(Timeout::Idle, after);
                self.know(|story| story.timeouts |= after.is_some());
            }
            28 if !self.know(|story| story.by_the_clock) => {
                let after = (self.roll(3) > 0).then(|| Duration::from_secs(self.roll(40) as u64));
                let fin = (self.roll(3) > 0).then(|| Duration::from_secs(self.roll(40) as u64));
                self.line(&format!("close deadline {after:?}, FIN timeout {fin:?}"));
                transport.set_timeout(Timeout::Close, after);
                transport.set_timeout(Timeout::Fin, fin);
            }
            29 => {
                let cap = (self.roll(2) > 0).then(|| 1000 + self.roll(100_000));
                self.line(&format!("cap {cap:?}"));
                transport.set_write_cap(cap);
                self.know(|story| story.capped = cap);
            }
            30 => {
                let (low, high) = (self.roll(100), self.roll(2000));
                transport.set_write_marks(low, high);
                self.know(|story| story.low_mark = Some(low.min(high)));
            }
            31 => self.ask(transport),
            32 => self.await_drained(transport),
            33 | 34 => self.tell(transport),
            35 | 36 => self.call_later(transport),
            37 => self.change_a_timer(transport),
            _ => {}
        }
    }

    pub(super) fn write(self: &Rc<Life>, transport: &Transport) {
        let len = self.length();
        let (offset, shut, over, open) = self.know(|story| {
            let shut = story.closing || story.finishing;
            let past = |cap| len > 0 && transport.buffered() + len > cap;
            let over = story.capped.is_some_and(past);
            (story.taken, shut && story.producer.is_none(), over, story.must_be_open())
        });
        let before = hooks::dropped(transport);
        let data = bytes_at(offset, len);
        if self.roll(2) == 0 {
            transport.write(data);
        } else {
            transport.write_bytes(data);
        }
        let dropped = hooks::dropped(transport) - before;
        self.line(&format!("write {len} at {offset}, dropped {dropped}"));
        self.check(dropped == 0 || dropped == len as u64, "a write is taken or dropped whole");
        if shut {
            self.check(dropped == len as u64, "a write after the close is dropped");
        } else if open {
            self.check(dropped == 0, "an open connection takes what is written");
        }
        if dropped > 0 {
            return;
        }
        if over {
            self.know(|story| story.closing = true);
        } else {
            self.know(|story| story.taken += len);
        }
        if self.roll(4) == 0 {
            self.await_drained(transport);
        }
    }

    fn pause(&self, transport: &Transport) {
        self.line("pause");
        transport.pause_producing();
        self.know(|story| story.paused = true);
    }

    fn resume(&self, transport: &Transport) {
        self.line("resume");
        transport.resume_producing();
        self.know(|story| story.paused = false);
    }

    fn register(self: &Rc<Life>, transport: &Transport) {
        let kind = [ProducerKind::Push, ProducerKind::Pull][self.roll(2)];
        let (number, had) = self.know(|story| (story.producers.len(), story.producer.is_some()));
        let piper = Piper { life: self.clone(), transport: transport.clone(), number, kind };
        let result = transport.register_producer(piper, kind);
        self.line(&format!("register {kind:?} {number}: {result:?}"));
        self.check(result.is_err() == had, "register_producer fails only for a second producer");
        if result.is_err() {
            return;
        }
        self.know(|story| story.producers.push(false));
        // A producer registered too late is only stopped, so another can register.
        let late = transport.register_producer(Probe, ProducerKind::Pull).is_ok();
        let (shut, open) =
            self.know(|story| (story.closing || story.finishing, story.must_be_open()));
        self.check(!shut || late, "none is registered after the close");
        self.check(!open || !late, "an open connection accepts a producer");
        if !late {
            self.know(|story| (story.producer, story.producer_paused) = (Some(number), false));
        }
    }

    pub(super) fn unregister(&self, transport: &Transport) {
        self.line("unregister");
        transport.unregister_producer();
        self.know(|story| {
            if let Some(number) = story.producer.take() {
                story.producers[number] = true;
            }
        });
    }

    fn ask(self: &Rc<Life>, transport: &Transport) {
        self.line("ask");
        self.know(|story| story.asked += 1);
        let (life, answered) = (self.clone(), self.clone());
        transport
            .connection::<NearEnd>()
            .ask(move |_, transport| {
                let within = life.clone();
                life.called("asked", || within.act_some(transport));
            })
            .add_both(move |_| {
                answered.know(|story| story.answered += 1);
                Ok(())
            })
            .detach();
    }

    fn await_drained(self: &Rc<Life>, transport: &Transport) {
        self.line("drained?");
        self.know(|story| (story.asked, story.undrained) = (story.asked + 1, story.undrained + 1));
        let answered = self.clone();
        transport
            .writable()
            .add_both(move |_| {
                answered.line("drained");
                answered.know(|story| {
                    (story.answered, story.undrained) = (story.answered + 1, story.undrained - 1);
                });
                Ok(())
            })
            .detach();
    }

    fn tell(self: &Rc<Life>, transport: &Transport) {
        let life = self.clone();
        let accepted = transport.connection::<NearEnd>().tell(move |_, transport| {
            let within = life.clone();
            life.called("told", || within.act_some(transport));
        });
        let lost = self.know(|story| story.lost.is_some());
        self.check(accepted != lost, "tell returns whether the connection is alive");
    }

    fn call_later(self: &Rc<Life>, transport: &Transport) {
        let (life, delay) = (self.clone(), self.delay());
        let number = self.know(|story| story.timers.len());
        self.line(&format!("call {number} later, by {delay:?}"));
        let f = move |_: &mut NearEnd, transport: &Transport| {
            let within = life.clone();
            life.comes_due(number, transport);
            life.called(&format!("timed {number}"), || within.act_some(transport));
        };
        let due = transport.reactor().now() + delay;
        let call = transport.connection::<NearEnd>().call_later(delay, f);
        self.know(|story| {
            let pending = story.lost.is_none();
            story.timers.push(Timer { call, due, pending });
        });
    }

    fn comes_due(&self, number: usize, transport: &Transport) {
        let now = transport.reactor().now();
        let (due, pending) = self.know(|story| {
            let timer = &mut story.timers[number];
            (timer.due, std::mem::replace(&mut timer.pending, false))
        });
        self.check(pending, "a timed call runs once, and never after a cancel");
        self.check(due <= now, "a timed call ran too early");
    }

    fn change_a_timer(&self, transport: &Transport) {
        let timers = self.know(|story| story.timers.len());
        if timers == 0 {
            return;
        }
        let (number, how, delay) = (self.roll(timers), self.roll(3), self.delay());
        let (call, pending, lost) = self.know(|story| {
            let Timer { call, pending, .. } = &story.timers[number];
            (call.clone(), *pending, story.lost.is_some())
        });
        let changed = match how {
            0 => call.cancel(),
            1 => call.reset(delay),
            _ => call.delay_by(delay),
        };
        self.line(&format!("{} {number}: {changed}", ["cancel", "reset", "delay"][how]));
        self.check(!changed || pending, "a call that ran or was cancelled can't be changed");
        // A connection drops its timers when it ends, before `connection_lost`.
        let ended = lost || transport.is_closing();
        self.check(changed || !pending || ended, "a pending call can be changed");
        let now = transport.reactor().now();
        self.know(|story| {
            let timer = &mut story.timers[number];
            timer.pending &= how != 0;
            timer.due = if how == 1 { now + delay } else { timer.due + delay };
        });
    }

    fn delay(&self) -> Duration {
        Duration::from_millis([0, 1, 500, 3000][self.roll(4)])
    }
}
