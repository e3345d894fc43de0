//! Real Twisted as the other side, over loopback: framing, half-close, abort and slow reading. Each
//! fact is tried in both directions: Couplet listens and Twisted connects, and the other way round.
//!
//! `peer.py` is the peer. Its Python is that of `TWISTED_PYTHON`, or one in the target folder that
//! `venv.sh` makes. Without one the tests are skipped, and say so; in CI they fail.
#![cfg(unix)]

mod framing;
mod half_close;
mod meeting;
mod peer;
mod reset;
mod slow;
