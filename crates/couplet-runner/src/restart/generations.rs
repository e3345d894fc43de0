//! The processes of a program: the one that serves, and older ones whose connections finish.

use std::cell::RefCell;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// This process and the older ones.
pub(crate) struct Generations {
    pub(crate) number: u32,
    /// Both ends: the first is closed when this process ends, which the other shows.
    // No byte is ever sent.
    life: (UnixStream, UnixStream),
    older: RefCell<Vec<Generation>>,
}

/// An older process.
pub(crate) struct Generation {
    pub(crate) number: u32,
    pub(crate) pid: u32,
    /// Readable when the process has ended.
    // No byte is ever sent.
    life: UnixStream,
}

impl Generation {
    pub(super) fn new(number: u32, pid: u32, life: OwnedFd) -> io::Result<Generation> {
        let life = UnixStream::from(life);
        life.set_nonblocking(true)?;
        Ok(Generation { number, pid, life })
    }

    fn is_alive(&self) -> bool {
        let read = (&self.life).read(&mut [0]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    fn try_clone(&self) -> io::Result<Generation> {
        Ok(Generation { life: self.life.try_clone()?, ..*self })
    }

    pub(super) fn into_life(self) -> OwnedFd {
        self.life.into()
    }
}

impl Generations {
    /// This process is the first.
    pub(crate) fn first() -> io::Result<Generations> {
        Generations::new(1, Vec::new())
    }

    /// This process has this number.
    pub(super) fn new(number: u32, older: Vec<Generation>) -> io::Result<Generations> {
        let (life, older) = (UnixStream::pair()?, RefCell::new(older));
        Ok(Generations { number, life, older })
    }

    /// The older processes that run, each as a number and a process.
    pub(crate) fn older(&self) -> Vec<(u32, u32)> {
        self.forget_ended();
        self.older.borrow().iter().map(|it| (it.number, it.pid)).collect()
    }

    /// This process and the older ones, for a new one, which forgets those that have ended.
    pub(super) fn all(&self) -> io::Result<Vec<Generation>> {
        let older = self.older.borrow();
        let mut all: Vec<Generation> =
            older.iter().map(Generation::try_clone).collect::<io::Result<_>>()?;
        let life = self.life.1.try_clone()?.into();
        all.push(Generation::new(self.number, std::process::id(), life)?);
        Ok(all)
    }

    fn forget_ended(&self) {
        self.older.borrow_mut().retain(Generation::is_alive);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_generations_are_forgotten() {
        let first = Generations::first().expect("descriptors");
        assert_eq!((first.number, first.older()), (1, Vec::new()));
        let second = Generations::new(2, first.all().expect("descriptors")).expect("descriptors");
        let pid = std::process::id();
        assert_eq!((second.number, second.older()), (2, vec![(1, pid)]));
        let third = Generations::new(3, second.all().expect("descriptors")).expect("descriptors");
        assert_eq!(third.older(), [(1, pid), (2, pid)]);
        // The end that others have shows the end of all that have the first.
        drop(first);
        assert_eq!(third.older(), [(2, pid)]);
        assert_eq!(second.older(), []);
    }
}
