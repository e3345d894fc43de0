//! What the near end asks for, from inside a callback or from outside.

use std::rc::Rc;
use std::time::Duration;

use couplet::{Failure, ProducerKind, Transport};

use super::near::{Liver, Nobody, Piper};
use super::{Life, Timer, bytes_at};

impl Life {
    /// One random wish of the near end.
    pub(super) fn wish(self: &Rc<Life>, transport: &Transport) {
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
                transport.set_idle_timeout(after);
                self.know(|story| story.timeouts |= after.is_some());
            }
            28 if !self.know(|story| story.by_the_clock) => {
                let after = (self.roll(3) > 0).then(|| Duration::from_secs(self.roll(40) as u64));
                self.line(&format!("close deadline {after:?}"));
                transport.set_close_deadline(after);
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
        let (place, shut, over, sure) = self.know(|story| {
            let shut = story.closing || story.finishing;
            let past = |cap| len > 0 && transport.buffered() + len > cap;
            let over = story.capped.is_some_and(past);
            (story.taken, shut && story.producer.is_none(), over, story.sure())
        });
        let before = transport.dropped();
        let data = bytes_at(place, len);
        if self.roll(2) == 0 {
            transport.write(data);
        } else {
            transport.write_bytes(data);
        }
        let dropped = transport.dropped() - before;
        self.line(&format!("write {len} at {place}, dropped {dropped}"));
        self.check(dropped == 0 || dropped == len as u64, "a write is taken or dropped as a whole");
        if shut {
            self.check(dropped == len as u64, "a write after the close is dropped");
        } else if sure {
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
        self.check(result.is_err() == had, "a second producer alone is refused");
        if result.is_err() {
            return;
        }
        self.know(|story| story.producers.push(false));
        // One that comes too late is only going to be stopped, and then there is room for another.
        let late = transport.register_producer(Nobody, ProducerKind::Pull).is_ok();
        let (shut, sure) = self.know(|story| (story.closing || story.finishing, story.sure()));
        self.check(!shut || late, "none is registered after the close");
        self.check(!sure || !late, "an open connection takes a producer");
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
            .connection::<Liver>()
            .ask(move |_, transport| {
                let within = life.clone();
                life.called("asked", || within.wish_some(transport));
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
            .drained()
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
        let told = transport.connection::<Liver>().tell(move |_, transport| {
            let within = life.clone();
            life.called("told", || within.wish_some(transport));
        });
        let lost = self.know(|story| story.lost.is_some());
        self.check(told != lost, "tell says whether the connection is lost");
    }

    fn call_later(self: &Rc<Life>, transport: &Transport) {
        let (life, delay) = (self.clone(), self.delay());
        let number = self.know(|story| story.timers.len());
        self.line(&format!("call {number} later, by {delay:?}"));
        let f = move |_: &mut Liver, transport: &Transport| {
            let within = life.clone();
            life.comes_due(number, transport);
            life.called(&format!("timed {number}"), || within.wish_some(transport));
        };
        let due = transport.reactor().now() + delay;
        let call = transport.connection::<Liver>().call_later(delay, f);
        self.know(|story| {
            let to_come = story.lost.is_none();
            story.timers.push(Timer { call, due, to_come });
        });
    }

    fn comes_due(&self, number: usize, transport: &Transport) {
        let now = transport.reactor().now();
        let (due, to_come) = self.know(|story| {
            let timer = &mut story.timers[number];
            (timer.due, std::mem::replace(&mut timer.to_come, false))
        });
        self.check(to_come, "a timed call comes once, and not after a cancel");
        self.check(due <= now, "a timed call comes too early");
    }

    fn change_a_timer(&self, transport: &Transport) {
        let timers = self.know(|story| story.timers.len());
        if timers == 0 {
            return;
        }
        let (number, how, delay) = (self.roll(timers), self.roll(3), self.delay());
        let (call, to_come, lost) = self.know(|story| {
            let Timer { call, to_come, .. } = &story.timers[number];
            (call.clone(), *to_come, story.lost.is_some())
        });
        let changed = match how {
            0 => call.cancel(),
            1 => call.reset(delay),
            _ => call.delay_by(delay),
        };
        self.line(&format!("{} {number}: {changed}", ["cancel", "reset", "delay"][how]));
        self.check(!changed || to_come, "what has come or was cancelled can't be changed");
        // A connection takes its timers with it when it ends, before it is told.
        let ended = lost || transport.is_closing();
        self.check(changed || !to_come || ended, "what is to come can be changed");
        let now = transport.reactor().now();
        self.know(|story| {
            let timer = &mut story.timers[number];
            timer.to_come &= how != 0;
            timer.due = if how == 1 { now + delay } else { timer.due + delay };
        });
    }

    fn delay(&self) -> Duration {
        Duration::from_millis([0, 1, 500, 3000][self.roll(4)])
    }
}
