//! [`Throttle`]: at most so many bytes a second, for a connection or for several together. Twisted's
//! `ThrottlingFactory`.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Layer, Outbox, ROOM, Up};

/// How many bytes may pass in a second: a token bucket. Throttles that share it share the bytes, in
/// turns of 10 ms' worth.
///
/// After a rest, 100 ms' worth pass at once.
#[derive(Debug)]
pub struct Bandwidth {
    bytes_per_second: u64,
    /// From here on, bytes are unspoken for. `None` before the first.
    next: Cell<Option<Instant>>,
}

impl Bandwidth {
    /// So many bytes a second; at least one.
    pub fn new(bytes_per_second: u64) -> Rc<Bandwidth> {
        Rc::new(Bandwidth { bytes_per_second: bytes_per_second.max(1), next: Cell::new(None) })
    }

    /// The time that bytes take.
    fn time_of(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000;
        let nanos = nanos.div_ceil(u128::from(self.bytes_per_second));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Reserves up to `wanted` bytes: how many, and when they may pass. A throttle that waits has its
    /// place, so others that come later do not overtake it.
    fn reserve(&self, wanted: usize, now: Instant) -> (usize, Instant) {
        let turn = (self.bytes_per_second / 100).max(1);
        let bytes = turn.min(wanted as u64);
        let burst = self.time_of((self.bytes_per_second / 10).max(1));
        let earliest = now.checked_sub(burst).unwrap_or(now);
        let from = self.next.get().map_or(earliest, |next| next.max(earliest));
        let at = from.checked_add(self.time_of(bytes)).unwrap_or(from);
        self.next.set(Some(at));
        (bytes as usize, at)
    }
}

/// Limits how fast bytes pass, in one direction or both.
///
/// Bytes on the way up wait in the connection, which stops reading, so the peer is slowed down; bytes
/// on the way down wait in the outbox above, where marks and caps count them.
///
/// ```
/// use couplet::layers::{Bandwidth, Throttle};
///
/// // For each connection of its own: 1 MB/s down. For all together: 10 MB/s up.
/// let shared = Bandwidth::new(10_000_000);
/// let throttle = Throttle::new(Some(shared.clone()), Some(Bandwidth::new(1_000_000)));
/// ```
#[derive(Debug)]
pub struct Throttle {
    up: Lane,
    down: Lane,
    ended: bool,
}

/// One direction.
#[derive(Debug)]
struct Lane {
    bandwidth: Option<Rc<Bandwidth>>,
    /// Bytes that are reserved, from `wait` on.
    reserved: usize,
    wait: Option<Instant>,
}

impl Lane {
    fn new(bandwidth: Option<Rc<Bandwidth>>) -> Lane {
        Lane { bandwidth, reserved: 0, wait: None }
    }

    /// How many of `wanted` bytes may pass now.
    fn take(&mut self, wanted: usize, now: Instant) -> usize {
        let Some(bandwidth) = &self.bandwidth else { return wanted };
        if wanted == 0 {
            return 0;
        }
        if self.reserved == 0 {
            let (bytes, at) = bandwidth.reserve(wanted, now);
            (self.reserved, self.wait) = (bytes, Some(at));
        }
        if self.wait.is_some_and(|wait| now < wait) {
            return 0;
        }
        self.wait = None;
        let n = wanted.min(self.reserved);
        self.reserved -= n;
        n
    }

    fn timed_out(&mut self, now: Instant) {
        self.wait.take_if(|wait| *wait <= now);
    }
}

impl Throttle {
    /// With the limits of each direction; up is from the peer to the protocol.
    pub fn new(up: Option<Rc<Bandwidth>>, down: Option<Rc<Bandwidth>>) -> Throttle {
        Throttle { up: Lane::new(up), down: Lane::new(down), ended: false }
    }
}

impl Layer for Throttle {
    fn up<'a>(&'a mut self, below: &mut &'a [u8], now: Instant) -> Up<'a> {
        match self.up.take(below.len(), now) {
            0 if self.ended => Up::Closed,
            0 => Up::Nothing,
            n => {
                let (data, rest) = below.split_at(n);
                *below = rest;
                Up::Data(data)
            }
        }
    }

    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, now: Instant) {
        while below.len() < ROOM {
            let mut n = self.down.take(above.len(), now);
            if n == 0 {
                return;
            }
            if n == above.len() {
                return below.append(above);
            }
            while n > 0 {
                let some = n.min(above.first().len());
                below.extend(&above.first()[..some]);
                above.advance(some);
                n -= some;
            }
        }
    }

    fn is_transparent(&self) -> bool {
        true
    }

    fn ended(&mut self) {
        self.ended = true;
    }

    fn deadline(&self) -> Option<Instant> {
        self.up.wait.into_iter().chain(self.down.wait).min()
    }

    fn timed_out(&mut self, now: Instant) {
        self.up.timed_out(now);
        self.down.timed_out(now);
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow::Continue;

    use super::*;
    use crate::layers::Layers;

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn start() -> Instant {
        Instant::now()
    }

    /// A connection whose peer sends without end, in chunks of 100 kB.
    struct Busy {
        layers: Layers,
        received: usize,
    }

    impl Busy {
        fn new(bandwidth: &Rc<Bandwidth>) -> Busy {
            let throttle = Throttle::new(Some(bandwidth.clone()), None);
            Busy { layers: Layers::new(throttle, &Rc::default()), received: 0 }
        }

        fn turn(&mut self, now: Instant) {
            self.layers.timed_out(now);
            let mut chunk: &[u8] = if self.layers.is_behind() { &[] } else { &[0; 100_000] };
            loop {
                let flow = self.layers.feed(chunk, now, |up| {
                    if let Up::Data(data) = up {
                        self.received += data.len();
                    }
                    Continue(())
                });
                if flow.is_break() {
                    break;
                }
                chunk = &[0; 100_000];
            }
        }
    }

    /// Runs connections for a time, each at its deadlines.
    fn run(connections: &mut [Busy], from: Instant, seconds: u64) {
        let mut now = from;
        let end = from + Duration::from_secs(seconds);
        let mut turns = 0;
        while now <= end {
            for connection in &mut *connections {
                if connection.layers.deadline().is_none_or(|deadline| deadline <= now) {
                    connection.turn(now);
                    turns += 1;
                }
            }
            let next = connections.iter().filter_map(|one| one.layers.deadline()).min();
            now = next.expect("each waits").max(now + Duration::from_nanos(1));
        }
        assert!(turns <= 130 * seconds, "{turns}: woken too often");
    }

    #[test]
    fn bytes_come_up_at_the_rate_after_a_burst_of_a_tenth() {
        for rate in [50, 10_000, 3_000_000] {
            let mut one = [Busy::new(&Bandwidth::new(rate))];
            let now = start();
            one[0].turn(now);
            let burst = one[0].received as u64;
            assert!((rate / 10 - rate / 100..=rate / 10).contains(&burst), "{burst} at {rate}");
            run(&mut one, now, 10);
            let expected = rate * 10 + rate / 10;
            let received = one[0].received as u64;
            assert!(received <= expected && received + rate / 50 >= expected, "{received}");
        }
    }

    #[test]
    fn a_long_rest_saves_up_no_more_than_the_burst() {
        let mut one = [Busy::new(&Bandwidth::new(10_000))];
        let now = start();
        one[0].turn(now);
        let before = one[0].received;
        one[0].turn(now + Duration::from_secs(3600));
        let passed = one[0].received - before;
        // What was reserved before the rest, and the burst.
        assert!((1000..=1100).contains(&passed), "{passed}");
    }

    #[test]
    fn connections_that_share_a_bandwidth_get_the_same_share() {
        let bandwidth = Bandwidth::new(100_000);
        let mut three = [0; 3].map(|_| Busy::new(&bandwidth));
        run(&mut three, start(), 9);
        let received = [0, 1, 2].map(|at: usize| three[at].received);
        let sum: usize = received.iter().sum();
        assert!((895_000..=910_000).contains(&sum), "{received:?}");
        assert!(received.iter().all(|one| one.abs_diff(sum / 3) <= 10_000), "{received:?}");
    }

    #[test]
    fn bytes_go_down_at_the_rate_and_the_rest_stays_above() {
        let throttle = Throttle::new(None, Some(Bandwidth::new(1000)));
        let mut layers = Layers::new(throttle, &Rc::default());
        let mut above = Outbox::new(Rc::default());
        above.extend(&[1; 60]);
        above.push(bytes::Bytes::from_static(&[2; 60]));
        let now = start();
        layers.down(&mut above, now);
        assert_eq!((layers.bottom().len(), above.len()), (100, 20));
        assert!(!layers.close(&mut above, now), "bytes come first");
        let deadline = layers.deadline().expect("it waits");
        assert_eq!(deadline, now + Duration::from_millis(10));
        layers.timed_out(deadline);
        layers.down(&mut above, deadline);
        assert_eq!(above.len(), 10);
        let deadline = layers.deadline().expect("it waits");
        layers.timed_out(deadline);
        assert!(layers.close(&mut above, deadline));
        assert_eq!(layers.bottom().len(), 120);
        let bytes: Vec<u8> = layers.bottom().slices().flatten().copied().collect();
        assert_eq!(bytes, [[1; 60], [2; 60]].concat());
        assert_eq!(layers.deadline(), None);
    }

    #[test]
    fn a_direction_without_a_limit_passes_everything() {
        let mut layers = Layers::new(Throttle::new(None, None), &Rc::default());
        let mut received = 0;
        let flow = layers.feed(&[0; 100_000], start(), |up| {
            let Up::Data(data) = up else { panic!("{up:?}") };
            received += data.len();
            Continue(())
        });
        assert!(flow.is_continue());
        let mut above = Outbox::new(Rc::default());
        above.extend(&[0; 60_000]);
        layers.down(&mut above, start());
        assert_eq!((received, layers.bottom().len()), (100_000, 60_000));
    }

    #[test]
    fn the_end_comes_behind_bytes_that_wait() {
        let mut layers = Layers::new(Throttle::new(Some(Bandwidth::new(10)), None), &Rc::default());
        let now = start();
        let mut events = String::new();
        let mut feed = |layers: &mut Layers, bytes: &[u8], now| {
            let _ = layers.feed(bytes, now, |up| {
                events.push_str(match up {
                    Up::Data(_) => "data ",
                    Up::Closed => "closed",
                    _ => "?",
                });
                Continue(())
            });
        };
        feed(&mut layers, b"ab", now);
        layers.ended();
        feed(&mut layers, b"", now);
        let deadline = layers.deadline().expect("it waits");
        layers.timed_out(deadline);
        feed(&mut layers, b"", deadline);
        assert_eq!(events, "data data closed");
    }
}
