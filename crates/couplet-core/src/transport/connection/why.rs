//! The reason why a connection waits: [`Life::why`], one function of its state.
//!
//! Contract: 180.

use super::{Life, LifeState, OurFin, Reading, Writing};
use crate::why::{Why, size};

impl Life {
    /// The reason why the connection waits, in words for people. `protocol` is the name of its
    /// protocol.
    pub(crate) fn why(&self, protocol: &str) -> Why {
        let mut why = Why::default();
        match &self.state {
            LifeState::Open { .. } if self.is_opening() => self.why_opening(&mut why),
            LifeState::Open { reading, writing } => {
                self.why_open(*reading, *writing, protocol, &mut why);
            }
            LifeState::Flushing { our_fin, since } => {
                why.text(format!("closing ({}): ", self.reason()));
                match (self.cell().unsent(), our_fin) {
                    (0, _) if self.cell().has_producer() => {
                        why.text("the producer has not finished, no progress for ").since(*since)
                    }
                    (0, OurFin::Sent) => why.text("our FIN was sent"),
                    (0, _) => why.text("our FIN is next"),
                    (unsent, _) => {
                        let unsent = size(unsent);
                        why.text(format!("{unsent} unsent, no progress for ")).since(*since)
                    }
                };
                why.deadline(", reset in ", self.close_deadline(*since));
            }
            LifeState::Lingering { since } => {
                let went = format!("lingering ({}): our FIN went ", self.reason());
                why.text(went).since(*since);
                why.text(" ago, waits for the peer's");
                why.deadline(", closed in ", self.fin_deadline(*since));
            }
            LifeState::Closed { .. } => {
                why.text(format!("closed: {}", self.reason()));
            }
        }
        why
    }

    /// "opening: TLS handshake, 4.1 s, failed in 5.9 s".
    fn why_opening(&self, why: &mut Why) {
        let layer = self.opening_layer().unwrap_or("its layers");
        why.text(format!("opening: {layer}, ")).since(self.cell().made_at.get());
        why.deadline(", failed in ", self.layers_deadline());
    }

    fn why_open(&self, reading: Reading, writing: Writing, protocol: &str, why: &mut Why) {
        self.why_unsent(writing, why);
        self.why_reading(reading, protocol, why);
        if self.cell().is_draining() {
            why.clause("asked to finish by a drain");
        }
        if matches!(reading, Reading::On | Reading::Layered) {
            self.why_idle(why);
        }
    }

    /// The output that waits.
    fn why_unsent(&self, writing: Writing, why: &mut Why) {
        let cell = self.cell();
        let unsent = cell.unsent();
        if unsent > 0 {
            why.clause(format!("{} unsent", size(unsent)));
            if let Some(since) = cell.blocked_since() {
                why.text(", the peer has taken nothing for ").since(since);
            }
            if let Some(cap) = cell.cap() {
                why.text(format!(", reset above {}", size(cap)));
            }
        }
        if cell.producer_is_paused() {
            let low = size(cell.watermarks().low());
            why.clause(format!("its producer is paused until {low} are left"));
        }
        match writing {
            Writing::Open => {}
            Writing::Finishing { since } => {
                why.clause("our side closes when everything is sent");
                why.deadline(", reset in ", self.close_deadline(self.instant(since)));
            }
            Writing::Shut => {
                why.clause("our side is closed");
            }
            Writing::Failed => {
                why.clause(format!("our side has failed ({})", self.reason()));
            }
        }
    }

    /// The reason why no bytes are read.
    fn why_reading(&self, reading: Reading, protocol: &str, why: &mut Why) {
        let cell = self.cell();
        match reading {
            Reading::On | Reading::Layered => {
                if self.is_full_below() {
                    why.clause("reading waits: a layer is full");
                }
            }
            Reading::Ended if why.is_empty() => {
                why.text("the peer has closed its side; waits for the program to close ours");
            }
            Reading::Ended => {
                why.clause("the peer has closed its side");
            }
            Reading::Paused { since, fin } => {
                let pauser = cell.pauser(protocol);
                why.clause(pauser).text(" for ").since(self.instant(since));
                why.deadline(", resumed in ", cell.timed_pause_end());
                if fin {
                    why.clause("the peer has closed its side");
                }
            }
        }
    }

    /// The peer's silence.
    fn why_idle(&self, why: &mut Why) {
        let cell = self.cell();
        if cell.bytes_in.get() == 0 {
            why.clause("waits for the peer's first byte for ").since(cell.made_at.get());
        } else {
            why.clause("waits for the peer, last heard ").since(cell.received_at.get());
            why.text(" ago");
        }
        why.deadline(", reset in ", self.idle_deadline());
    }
}
