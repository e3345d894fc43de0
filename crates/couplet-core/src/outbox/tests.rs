//! Compares an outbox with a plain queue of bytes, and checks the memory that it and its spares
//! keep.

use super::*;

fn outbox() -> Outbox {
    Outbox::new(Rc::new(Spares::default()))
}

/// All queued bytes, as a driver sees them.
fn waiting(outbox: &Outbox) -> Vec<u8> {
    assert!(outbox.slices().all(|slice| !slice.is_empty()));
    assert_eq!(outbox.slices().map(<[u8]>::len).sum::<usize>(), outbox.len());
    assert_eq!(outbox.slices().next().unwrap_or_default(), outbox.first());
    let mut slices = [IoSlice::new(&[]); 64];
    let count = outbox.chunks(&mut slices);
    slices[..count].iter().flat_map(|slice| slice.to_vec()).collect()
}

#[test]
fn bytes_leave_in_the_order_in_which_they_came_however_they_are_written_and_sent() {
    let (mut outbox, mut model) = (outbox(), VecDeque::new());
    let mut dice: usize = 1;
    for step in 0..4000_usize {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (choice, size) = (dice >> 60, (dice >> 33) % [1, 300, 70_000][step % 3]);
        let bytes = vec![step as u8; size];
        match choice {
            0..5 => {
                outbox.extend(&bytes);
                model.extend(bytes);
            }
            5..8 => {
                outbox.push(Bytes::from(bytes.clone()));
                model.extend(bytes);
            }
            8 => outbox.trim(),
            12 => {
                outbox.fill(size + 100, |room| {
                    room[..size].copy_from_slice(&bytes);
                    size
                });
                model.extend(bytes);
            }
            10 | 11 => {
                // Appends everything to another outbox, which may be empty.
                let mut other = Outbox::new(outbox.spares().clone());
                if choice == 11 {
                    other.extend(&bytes);
                    bytes.iter().rev().for_each(|&byte| model.push_front(byte));
                }
                other.append(&mut outbox);
                assert!(outbox.is_empty());
                drop(outbox.take_spent());
                outbox = other;
            }
            9 => drop(outbox.take_spent()),
            _ => {
                let n = if choice == 15 { outbox.len() } else { size.min(outbox.len()) };
                outbox.advance(n);
                model.drain(..n);
            }
        }
        assert_eq!((outbox.len(), outbox.is_empty()), (model.len(), model.is_empty()));
        assert_eq!(outbox.first().is_empty(), model.is_empty());
        if step % 16 == 0 {
            let seen = waiting(&outbox);
            assert_eq!(seen, model.iter().copied().take(seen.len()).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_copied_piece_is_never_longer_than_its_bound() {
    let mut outbox = outbox();
    outbox.extend(&vec![1; 3 * PIECE + 5]);
    outbox.extend(&vec![2; PIECE]);
    let mut bytes = 0;
    while let Some(piece) = outbox.take_piece() {
        assert!(piece.as_slice().len() <= PIECE, "{}", piece.as_slice().len());
        bytes += piece.as_slice().len();
        outbox.give_back(piece);
    }
    assert_eq!(bytes, 4 * PIECE + 5);
}

#[test]
fn a_buffer_of_the_largest_size_is_kept_and_a_larger_one_is_freed() {
    let spares = Spares::default();
    spares.give(Vec::with_capacity(PIECE + 1));
    assert_eq!(spares.take().capacity(), 0, "it is too large");
    // The most recently drained buffer, and one that must yield to it.
    spares.give(Vec::with_capacity(PIECE));
    spares.give(Vec::with_capacity(PIECE));
    assert_eq!(spares.retained(), PIECE);
    assert_eq!((spares.take().capacity(), spares.take().capacity()), (PIECE, PIECE));
    assert_eq!((spares.take().capacity(), spares.retained()), (0, 0));
}

#[test]
fn a_buffer_that_is_too_large_is_not_kept() {
    let spares = Spares::default();
    spares.give(Vec::with_capacity(100));
    spares.give(Vec::with_capacity(PIECE + 1));
    assert_eq!(spares.retained(), 0);
    assert_eq!(spares.take().capacity(), 100);
}

/// Twice, since all of them may be in use in between.
#[test]
fn spare_buffers_have_a_bound_together() {
    let spares = Spares::default();
    for _ in 0..2 {
        for _ in 0..20 {
            spares.give(Vec::with_capacity(PIECE));
        }
        assert_eq!(spares.retained(), SPARE_TOTAL - PIECE, "and the one that was drained last");
        let taken = std::iter::from_fn(|| Some(spares.take()).filter(|it| it.capacity() > 0));
        assert_eq!(taken.count(), SPARE_TOTAL / PIECE);
        assert_eq!(spares.retained(), 0);
    }
}

#[test]
fn a_short_rest_does_not_keep_a_large_buffer() {
    let mut outbox = outbox();
    outbox.extend(&vec![7; PIECE]);
    outbox.advance(PIECE - 10);
    outbox.trim();
    assert_eq!(waiting(&outbox), [7; 10]);
    assert!(outbox.open.capacity() <= MAX_OPEN / 4, "{}", outbox.open.capacity());
    assert_eq!(outbox.spares().take().capacity(), PIECE, "the next write has it");
    outbox.extend(b"more");
    outbox.advance(10);
    assert_eq!(waiting(&outbox), b"more");
}

#[test]
fn a_little_more_does_not_double_a_large_piece() {
    let mut outbox = outbox();
    outbox.extend(&[7; 60_000]);
    outbox.extend(b",");
    assert_eq!(outbox.open.capacity(), MAX_OPEN);
    let mut outbox = self::outbox();
    outbox.extend(&[7; 1000]);
    outbox.extend(b",");
    assert_eq!(outbox.open.capacity(), 2000, "a small one grows for several");
}

#[test]
fn the_rest_of_a_sealed_piece_does_not_keep_it() {
    let mut outbox = outbox();
    outbox.extend(&vec![7; PIECE]);
    outbox.push(Bytes::from_static(b"end"));
    let capacity = |outbox: &Outbox| match outbox.pieces().next() {
        Some(Piece::Copied(first)) => first.capacity(),
        other => panic!("{other:?}"),
    };
    outbox.advance(PIECE / 2);
    outbox.trim();
    assert_eq!(capacity(&outbox), PIECE, "much is left: no copy");
    outbox.advance(PIECE / 2 - 10);
    outbox.trim();
    assert_eq!(waiting(&outbox), [&[7; 10][..], b"end"].concat());
    assert_eq!(capacity(&outbox), 10);
    outbox.advance(10);
    assert_eq!(waiting(&outbox), b"end");
}

#[test]
fn a_long_rest_is_not_copied() {
    let mut outbox = outbox();
    outbox.extend(&vec![7; MAX_OPEN]);
    outbox.advance(MAX_OPEN / 8);
    let place = outbox.first().as_ptr();
    outbox.trim();
    assert_eq!(outbox.first().as_ptr(), place, "no copy");
    let mut outbox = self::outbox();
    outbox.spares().give(Vec::with_capacity(MAX_OPEN));
    outbox.extend(&vec![7; MAX_OPEN - MAX_OPEN / 4]);
    let place = outbox.first().as_ptr();
    outbox.trim();
    assert_eq!(outbox.first().as_ptr(), place, "so little is saved by none");
}

#[test]
fn a_taken_piece_contains_only_unsent_bytes() {
    for shared in [false, true] {
        let mut above = Outbox::new(Rc::default());
        if shared {
            above.push(Bytes::from_static(b"sent, and the rest"));
        } else {
            above.extend(b"sent, and the rest");
        }
        above.advance(6);
        let mut below = Outbox::new(Rc::default());
        below.append(&mut above);
        let piece = below.take_piece().expect("one piece");
        assert_eq!(piece.as_slice(), b"and the rest");
        assert!(below.is_empty() && below.take_piece().is_none());
        below.extend(b"more");
        assert_eq!(below.first(), b"more");
    }
}

/// A descriptor waits for its byte, however the bytes before it were written and have left; again
/// and again in one outbox.
#[cfg(unix)]
#[test]
fn a_descriptor_stays_when_all_bytes_before_it_have_left() {
    let mut outbox = outbox();
    let null = || std::fs::File::open("/dev/null").expect("it exists").into();
    for round in 0..2 {
        for (foreign, takes) in [(false, false), (false, true), (true, false), (true, true)] {
            let name = format!("foreign: {foreign}, taken: {takes}, {round}");
            match foreign {
                true => outbox.push(Bytes::from(vec![b'a'; 1000])),
                false => outbox.extend(&[b'a'; 1000]),
            }
            outbox.attach(null()).expect("there is room");
            assert_eq!((outbox.attached().0.len(), outbox.attached().1), (0, 1000), "{name}");
            match takes {
                true => {
                    let piece = outbox.take_piece().expect("a piece");
                    outbox.give_back(piece);
                }
                false => [300, 700].into_iter().for_each(|n| outbox.advance(n)),
            }
            drop(outbox.take_spent());
            assert!(outbox.is_empty() && outbox.has_attached(), "{name}");
            outbox.extend(b"bc");
            assert_eq!((outbox.attached().0.len(), outbox.attached().1), (1, 2), "{name}");
            outbox.advance(1);
            assert!(!outbox.has_attached() && waiting(&outbox) == b"c", "{name}");
            outbox.advance(1);
        }
    }
}
