//! [`Throttle`]: a limit on bytes per second, for one connection or shared by several. Twisted's
//! `ThrottlingFactory`.
//!
//! Contract: 169c.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Layer, LayerWaker, Outbox, ROOM, Up};

/// A limit on bytes per second: a token bucket. Throttles that share it share its bytes, taking
/// turns of 10 ms' worth.
///
/// After an idle period, 100 ms' worth pass immediately. When a connection ends, its turn passes to
/// the next in the queue.
#[derive(Debug)]
pub struct Bandwidth {
    bytes_per_second: u64,
    queue: RefCell<Queue>,
}

/// The reservations of a bandwidth, in order.
#[derive(Debug, Default)]
struct Queue {
    /// End of the time taken by bytes that were already due. `None` before the first.
    spent: Option<Instant>,
    /// Reservations not due yet.
    waiting: VecDeque<Rc<Reservation>>,
    /// Number of cancelled reservations in `waiting`.
    cancelled: usize,
    /// Total time of the reservations that are not cancelled.
    time: Duration,
}

#[derive(Debug)]
struct Reservation {
    time: Duration,
    state: RefCell<ReservationState>,
    /// Time at which its throttle checks again. Cancelled reservations may make it due earlier.
    next_check: Cell<Instant>,
}

#[derive(Debug)]
enum ReservationState {
    Waiting(Option<LayerWaker>),
    Due,
    Cancelled,
}

impl Reservation {
    fn is_due(&self) -> bool {
        matches!(*self.state.borrow(), ReservationState::Due)
    }

    fn is_cancelled(&self) -> bool {
        matches!(*self.state.borrow(), ReservationState::Cancelled)
    }

    fn waker(&self) -> Option<LayerWaker> {
        match &*self.state.borrow() {
            ReservationState::Waiting(waker) => waker.clone(),
            ReservationState::Due | ReservationState::Cancelled => None,
        }
    }
}

impl Queue {
    /// Marks due reservations. Returns the wakers of those whose throttles would check later, and
    /// of the first pending one if it is now due before its throttle checks.
    fn mark_due(&mut self, now: Option<Instant>) -> Vec<LayerWaker> {
        let mut wakers = Vec::new();
        while let Some(first) = self.waiting.front() {
            if first.is_cancelled() {
                self.cancelled -= 1;
                self.waiting.pop_front();
                continue;
            }
            let Some(at) = self.spent.and_then(|spent| spent.checked_add(first.time)) else {
                break;
            };
            let is_early = at < first.next_check.get();
            if now.is_none_or(|now| now < at) {
                if is_early {
                    first.next_check.set(at);
                    wakers.extend(first.waker());
                }
                break;
            }
            if now.is_some_and(|now| now < first.next_check.get()) {
                wakers.extend(first.waker());
            }
            first.state.replace(ReservationState::Due);
            self.spent = Some(at);
            self.time = self.time.saturating_sub(first.time);
            self.waiting.pop_front();
        }
        wakers
    }

    /// Accounts for a cancelled reservation, which stays in the queue until its turn, or until most
    /// are cancelled.
    fn cancel_reservation(&mut self, time: Duration) {
        self.time = self.time.saturating_sub(time);
        self.cancelled += 1;
        if self.cancelled > self.waiting.len() / 2 + 8 {
            self.waiting.retain(|waiting| !waiting.is_cancelled());
            self.cancelled = 0;
        }
    }
}

impl Bandwidth {
    /// A limit of this many bytes per second, at least 1.
    pub fn new(bytes_per_second: u64) -> Rc<Bandwidth> {
        Rc::new(Bandwidth { bytes_per_second: bytes_per_second.max(1), queue: RefCell::default() })
    }

    /// The time taken by this many bytes.
    fn time_of(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000;
        let nanos = nanos.div_ceil(u128::from(self.bytes_per_second));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Reserves up to `wanted` bytes, behind all other reservations.
    fn reserve(
        self: &Rc<Self>,
        wanted: usize,
        now: Instant,
        waker: Option<LayerWaker>,
    ) -> ReservationGuard {
        self.mark_due(now);
        let turn = (self.bytes_per_second / 100).max(1);
        let bytes = turn.min(wanted as u64);
        let time = self.time_of(bytes);
        let queue = &mut *self.queue.borrow_mut();
        if queue.waiting.is_empty() {
            let burst = self.time_of((self.bytes_per_second / 10).max(1));
            let earliest = now.checked_sub(burst).unwrap_or(now);
            queue.spent = Some(queue.spent.map_or(earliest, |spent| spent.max(earliest)));
        }
        let from = queue.spent.unwrap_or(now);
        let at = from.checked_add(queue.time + time).unwrap_or(from);
        let state = if at <= now {
            queue.spent = Some(at);
            ReservationState::Due
        } else {
            ReservationState::Waiting(waker)
        };
        let (state, next_check) = (RefCell::new(state), Cell::new(at));
        let reservation = Rc::new(Reservation { time, state, next_check });
        if at > now {
            queue.time += time;
            queue.waiting.push_back(reservation.clone());
        }
        ReservationGuard { bandwidth: self.clone(), reservation, bytes: bytes as usize }
    }

    fn mark_due(&self, now: Instant) {
        let wakers = self.queue.borrow_mut().mark_due(Some(now));
        wakers.iter().for_each(LayerWaker::wake);
    }
}

/// A reservation, held by its throttle. Dropping it returns the unused bytes.
#[derive(Debug)]
struct ReservationGuard {
    bandwidth: Rc<Bandwidth>,
    reservation: Rc<Reservation>,
    /// Bytes reserved and not yet used.
    bytes: usize,
}

impl Drop for ReservationGuard {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let unused = self.bandwidth.time_of(self.bytes as u64);
        let before = self.reservation.state.replace(ReservationState::Cancelled);
        let mut queue = self.bandwidth.queue.borrow_mut();
        match before {
            ReservationState::Due => {
                queue.spent = queue.spent.map(|spent| spent.checked_sub(unused).unwrap_or(spent));
            }
            ReservationState::Waiting(_) => queue.cancel_reservation(self.reservation.time),
            ReservationState::Cancelled => {}
        }
        let wakers = queue.mark_due(None);
        drop(queue);
        wakers.iter().for_each(LayerWaker::wake);
    }
}

/// Limits the rate of bytes, in one direction or both.
///
/// Incoming bytes stay in the connection, which stops reading, so the peer slows down. Outgoing
/// bytes stay in the outbox above, where marks and caps count them.
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
    up: ThrottleLane,
    down: ThrottleLane,
    ended: bool,
}

#[derive(Debug)]
struct ThrottleLane {
    bandwidth: Option<Rc<Bandwidth>>,
    waker: Option<LayerWaker>,
    guard: Option<ReservationGuard>,
}

impl ThrottleLane {
    fn new(bandwidth: Option<Rc<Bandwidth>>) -> ThrottleLane {
        ThrottleLane { bandwidth, waker: None, guard: None }
    }

    /// Takes up to `wanted` bytes from the limit; returns the number that may pass now.
    fn take(&mut self, wanted: usize, now: Instant) -> usize {
        let Some(bandwidth) = &self.bandwidth else { return wanted };
        if wanted == 0 {
            return 0;
        }
        let reserve = || bandwidth.reserve(wanted, now, self.waker.clone());
        let guard = self.guard.get_or_insert_with(reserve);
        if !guard.reservation.is_due() {
            bandwidth.mark_due(now);
        }
        if !guard.reservation.is_due() {
            return 0;
        }
        let n = wanted.min(guard.bytes);
        guard.bytes -= n;
        self.guard.take_if(|guard| guard.bytes == 0);
        n
    }

    fn deadline(&self) -> Option<Instant> {
        let waits = self.guard.as_ref().filter(|guard| !guard.reservation.is_due())?;
        Some(waits.reservation.next_check.get())
    }

    fn timed_out(&mut self, now: Instant) {
        if let Some(bandwidth) = &self.bandwidth {
            bandwidth.mark_due(now);
        }
    }
}

impl Throttle {
    /// A throttle with a limit for each direction; up is from the peer to the protocol.
    pub fn new(up: Option<Rc<Bandwidth>>, down: Option<Rc<Bandwidth>>) -> Throttle {
        Throttle { up: ThrottleLane::new(up), down: ThrottleLane::new(down), ended: false }
    }
}

impl Layer for Throttle {
    fn name(&self) -> &'static str {
        "throttle"
    }

    fn attach(&mut self, waker: &dyn Fn() -> LayerWaker) {
        for lane in [&mut self.up, &mut self.down] {
            lane.waker = lane.bandwidth.is_some().then(waker);
        }
    }

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
        self.up.deadline().into_iter().chain(self.down.deadline()).min()
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

    /// A connection whose peer sends endlessly, in chunks of 100 kB.
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

    /// Runs connections for a number of seconds, each at its deadlines.
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
        // The reservation made before the rest, and the burst.
        assert!((1000..=1100).contains(&passed), "{passed}");
    }

    #[test]
    fn output_stays_above_while_there_is_no_room_below() {
        let (now, spares) = (start(), Rc::default());
        let mut throttle = Throttle::new(None, Some(Bandwidth::new(10_000_000)));
        let (mut above, mut below) = (Outbox::new(Rc::clone(&spares)), Outbox::new(spares));
        // Less than the burst.
        above.extend(&[7; 900_000]);
        throttle.down(&mut above, &mut below, now);
        assert!((ROOM..ROOM + 100_000).contains(&below.len()), "{}", below.len());
        let left = above.len();
        throttle.down(&mut above, &mut below, now);
        assert_eq!((above.len(), left + below.len()), (left, 900_000));
        below.clear();
        throttle.down(&mut above, &mut below, now);
        assert!(above.len() < left);
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

    /// A throttle with pending input, on a connection whose wakes are counted.
    struct Waiting {
        layers: Layers,
        wakes: Rc<Cell<u32>>,
    }

    impl Waiting {
        fn new(bandwidth: &Rc<Bandwidth>, bytes: usize, now: Instant) -> Waiting {
            let throttle = Throttle::new(Some(bandwidth.clone()), None);
            let (mut layers, wakes) =
                (Layers::new(throttle, &Rc::default()), Rc::<Cell<u32>>::default());
            let woken = wakes.clone();
            let waker = LayerWaker::new(move || woken.set(woken.get() + 1));
            layers.attach(&|| waker.clone());
            let mut waiting = Waiting { layers, wakes };
            waiting.feed(&vec![0; bytes], now);
            waiting
        }

        /// Returns the number of bytes that pass.
        fn feed(&mut self, bytes: &[u8], now: Instant) -> usize {
            let mut passed = 0;
            self.layers.timed_out(now);
            let _ = self.layers.feed(bytes, now, |up| {
                if let Up::Data(data) = up {
                    passed += data.len();
                }
                Continue(())
            });
            passed
        }
    }

    #[test]
    fn closed_connections_leave_their_turns_to_waiting_and_to_new_ones() {
        let now = start();
        let bandwidth = Bandwidth::new(50_000);
        let gone: Vec<_> = (0..1000).map(|_| Waiting::new(&bandwidth, 400, now)).collect();
        let mut waits = Waiting::new(&bandwidth, 400, now);
        let mut behind = Waiting::new(&bandwidth, 400, now);
        let seconds = |of: &Waiting| (of.layers.deadline().expect("it waits") - now).as_secs();
        assert_eq!((seconds(&waits), seconds(&behind)), (7, 7), "behind a thousand");
        drop(gone);
        assert_eq!((waits.wakes.get(), behind.wakes.get()), (1, 0), "the first one looks again");
        let mut late = now + Duration::from_millis(8);
        assert_eq!(waits.feed(b"", late), 400, "its turn has come");
        assert_eq!(behind.wakes.get(), 1);
        late += Duration::from_millis(8);
        assert_eq!(behind.feed(b"", late), 400);
        let mut new = Waiting::new(&bandwidth, 0, late);
        late += Duration::from_millis(8);
        assert_eq!(new.feed(&[0; 400], late), 400, "no turn is left of those that are gone");
        let queue = bandwidth.queue.borrow();
        assert_eq!((queue.waiting.len(), queue.cancelled, queue.time), (0, 0, Duration::ZERO));
    }

    #[test]
    fn all_whose_turns_have_come_are_woken_when_one_looks() {
        let now = start();
        let bandwidth = Bandwidth::new(50_000);
        let gone: Vec<_> = (0..1000).map(|_| Waiting::new(&bandwidth, 400, now)).collect();
        let mut waits = [0; 4].map(|_| Waiting::new(&bandwidth, 400, now));
        drop(gone);
        let wakes = |waits: &[Waiting; 4]| waits.each_ref().map(|it| it.wakes.get());
        assert_eq!(wakes(&waits), [1, 0, 0, 0]);
        // The time of three turns, and not yet of the fourth.
        let late = now + Duration::from_millis(24);
        assert_eq!(waits[0].feed(b"", late), 400);
        assert_eq!(wakes(&waits), [1; 4], "the fourth has to look earlier than it would");
        assert_eq!([1, 2].map(|at: usize| waits[at].feed(b"", late)), [400; 2]);
        assert_eq!(waits[3].feed(b"", now + Duration::from_millis(32)), 400);
    }

    #[test]
    fn a_turn_that_came_and_was_not_used_is_returned_too() {
        let now = start();
        let bandwidth = Bandwidth::new(1000);
        let mut first = Waiting::new(&bandwidth, 100, now);
        assert_eq!(first.feed(&[0; 10], now), 0, "the burst has passed");
        let due = now + Duration::from_millis(10);
        bandwidth.mark_due(due);
        drop(first);
        let mut next = Waiting::new(&bandwidth, 0, due);
        assert_eq!(next.feed(&[0; 10], due), 10);
    }

    /// A turn whose first bytes were used returns only the time of the others.
    #[test]
    fn a_turn_that_was_used_in_part_returns_the_rest() {
        for used in 1..10 {
            let now = start();
            let bandwidth = Bandwidth::new(1000);
            let mut lane = ThrottleLane::new(Some(bandwidth.clone()));
            let mut other = ThrottleLane::new(Some(bandwidth.clone()));
            while lane.take(10, now) > 0 {}
            let due = now + Duration::from_millis(10);
            assert_eq!(lane.take(used, due), used, "of ten");
            drop(lane);
            let rest = (0..10).map(|_| other.take(1, due)).sum::<usize>();
            assert_eq!(used + rest, 10, "{used} were used");
        }
    }

    #[test]
    fn reservations_that_are_cancelled_again_and_again_take_no_memory() {
        let now = start();
        let bandwidth = Bandwidth::new(1000);
        let _burst = Waiting::new(&bandwidth, 100, now);
        let mut waits = Waiting::new(&bandwidth, 10, now);
        for _ in 0..1000 {
            drop(Waiting::new(&bandwidth, 10, now));
            assert!(bandwidth.queue.borrow().waiting.len() <= 2 * 2 + 16);
        }
        assert_eq!(waits.feed(b"", now + Duration::from_millis(10)), 10);
    }

    #[test]
    fn a_limit_of_each_direction_is_its_own() {
        let now = start();
        let throttle = Throttle::new(Some(Bandwidth::new(1000)), Some(Bandwidth::new(10_000)));
        let mut layers = Layers::new(throttle, &Rc::default());
        let mut above = Outbox::new(Rc::default());
        above.extend(&[0; 2000]);
        layers.down(&mut above, now);
        let mut up = 0;
        let mut chunk: &[u8] = &[0; 2000];
        let mut now = now;
        for _ in 0..20 {
            let _ = layers.feed(chunk, now, |part| {
                up += if let Up::Data(data) = part { data.len() } else { 0 };
                Continue(())
            });
            chunk = &[];
            now += Duration::from_millis(5);
            layers.timed_out(now);
            layers.down(&mut above, now);
        }
        // A burst of a tenth of a second, and another tenth at the limit.
        assert!((190..=200).contains(&up), "{up}");
        let down = 2000 - above.len();
        assert!((1900..=2000).contains(&down), "{down}");
    }

    #[test]
    fn of_two_directions_that_wait_the_earlier_one_counts() {
        let now = start();
        for (up, down) in [(1, 1_000_000), (1_000_000, 1)] {
            let mut throttle = Throttle::new(Some(Bandwidth::new(up)), Some(Bandwidth::new(down)));
            while throttle.up.take(1_000_000, now) > 0 {}
            while throttle.down.take(1_000_000, now) > 0 {}
            let waits = throttle.deadline().expect("both wait") - now;
            assert!(waits < Duration::from_millis(500), "{waits:?}");
        }
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
