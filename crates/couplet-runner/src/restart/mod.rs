//! Restarts: the program's current file is executed with the sockets of all ports. When its services
//! have started, this process accepts no more and reads no datagrams, lets its connections finish,
//! and ends. No connect is refused during the change, and each datagram reaches one of the two; if
//! the new process fails, nothing has changed.
//!
//! Contract: 150c, 160h.

mod generations;
mod heir;
mod moving;
mod wire;

use std::cell::RefCell;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use couplet::process::{Command, Process, ProcessProtocol, ProcessSignal};
use couplet::protocols::{IntReceiver, StringProtocol, StringTransport};
use couplet::{Address, Deferred, Failure, Reactor, Reason, Resolver};

use generations::Generation;
pub(crate) use generations::Generations;
pub(crate) use heir::{Heir, Inheritance, Older};
use moving::Leaving;
pub(crate) use moving::Takers;
use wire::{Reply, Request};

use crate::directory::Directory;
use crate::files;
use crate::running::Running;
use crate::{places, systemd};

/// The variable that names the parent of a new process, by its number.
const STARTED_BY: &str = "COUPLET_RESTARTED_BY";

/// The descriptor over which a new process inherits.
const LINK: i32 = 3;

/// The variables of systemd for reports and the descriptor store.
const REPORTING: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "FDSTORE"];

/// How long a restart waits for older processes that have nothing left to do.
const ENDING: Duration = Duration::from_secs(2);

/// How often it looks whether they have ended.
const LOOK: Duration = Duration::from_millis(20);

/// How long a new process that was given up may take to end.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// The program's file and arguments, as at its start.
pub(crate) struct Executable {
    /// The name by which the program was started.
    name: PathBuf,
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Executable {
    /// The path by which the program was started, which may lead to another file later.
    pub(crate) fn find() -> io::Result<Executable> {
        let mut arguments = env::args_os();
        let name = PathBuf::from(arguments.next().unwrap_or_default());
        Ok(Executable { path: path_of(&name)?, name, arguments: arguments.collect() })
    }

    /// The path for the next start. A link in the folder's path may lead elsewhere by now.
    fn next_path(&self, directory: Option<&Directory>) -> PathBuf {
        match directory {
            Some(directory) if has_folder(&self.name) => directory.start_in().join(&self.name),
            _ => self.path.clone(),
        }
    }

    /// The command of the next process, which inherits over the link. That process reports for the
    /// program, so it gets systemd's variables for reports, which other children do not.
    fn command(&self, link: OwnedFd, directory: Option<&Directory>) -> Command {
        let command = Command::new(self.next_path(directory));
        let command = match directory {
            None => command,
            Some(directory) => command.current_dir(directory.start_in()),
        };
        let command = command
            .args(&self.arguments)
            .env(STARTED_BY, std::process::id().to_string())
            .inherit_stdio()
            .descriptor(LINK, link);
        let values = REPORTING.iter().filter_map(|name| Some((name, env::var_os(name)?)));
        values.fold(command, |command, (name, value)| command.env(name, value))
    }
}

/// The path of a program that was started by this name. A name without a folder was looked up.
fn path_of(name: &Path) -> io::Result<PathBuf> {
    match has_folder(name) {
        true => std::path::absolute(name),
        false => env::current_exe(),
    }
}

fn has_folder(name: &Path) -> bool {
    name.components().count() > 1
}

/// Starts a new process, and returns once it serves. This process still
/// accepts connections.
pub(crate) async fn start(running: &Running) -> couplet::Result<Successor> {
    wait_for_older(running).await?;
    let (reactor, program) = (&running.reactor, &running.program);
    // A dead mount would block the start, so a thread reads the file first. Starting needs no right to
    // read, so errors do not count.
    let path = program.executable.next_path(program.directory.as_ref());
    let touch = move || {
        files::touch(&path);
        Ok(())
    };
    running.read_files("the program", touch).await?;
    let (ours, theirs) = UnixStream::pair()?;
    let process = reactor.spawn_process(
        program.executable.command(theirs.into(), program.directory.as_ref()),
        Child,
    )?;
    let pid = process.pid().unwrap_or_default();
    *running.successor.borrow_mut() = Some(process.clone());
    let mut successor =
        Successor { link: Link::open(reactor, ours).await?, pid, process, kinds: Vec::new() };
    let within = running.table.restart_within.0;
    match reactor.timeout(within, successor.give_all(running)).await {
        Ok(kinds) => {
            successor.kinds = kinds;
            Ok(successor)
        }
        Err(failure) => Err(successor.give_up(reactor, &failure).await),
    }
}

/// Waits until there is room for another process: older ones may be about to end.
async fn wait_for_older(running: &Running) -> couplet::Result<()> {
    let (reactor, most) = (&running.reactor, running.table.generations as usize);
    let began = reactor.now();
    loop {
        let older = running.generations.older().len();
        if older + 1 < most {
            return Ok(());
        }
        if reactor.now() - began >= ENDING {
            return Err(Failure::msg(format!(
                "{} processes of the program run, of which {older} have not finished their \
                 connections yet: `generations` allows {most}",
                older + 1
            )));
        }
        reactor.sleep(LOOK).await?;
    }
}

/// A new process that this one has started.
pub(crate) struct Successor {
    link: Link,
    pub(crate) pid: u32,
    process: Process,
    /// The kinds of connections that it takes over.
    kinds: Vec<String>,
}

impl Successor {
    /// Gives the new process its inheritance. Returns the kinds of connections that it takes over.
    async fn give_all(&self, running: &Running) -> couplet::Result<Vec<String>> {
        let link = &self.link;
        let generation = running.generations.number + 1;
        link.ask(Request::Hello { version: wire::VERSION, generation }, Vec::new()).await?;
        for older in running.generations.all()? {
            let Generation { number, pid, .. } = older;
            link.ask(Request::Generation { number, pid }, vec![older.into_life()]).await?;
        }
        for (place, socket) in places::duplicates(|_| true).await? {
            link.ask(Request::Socket(place), socket.into_descriptors()?).await?;
        }
        // A service that fails while the new process has its socket can listen again.
        places::hold(|_| true).await?;
        let pid_file = running.program.pid_file.borrow().as_ref().map(|file| file.descriptor());
        if let Some(descriptor) = pid_file.transpose()? {
            link.ask(Request::PidFile, vec![descriptor]).await?;
        }
        link.ask(Request::Start, Vec::new()).await
    }

    /// Ends the new process, which has failed, and waits for that: if this one ended before, the new
    /// one would believe that it has taken over.
    pub(crate) async fn give_up(self, reactor: &Reactor, failure: &Failure) -> Failure {
        let Successor { pid, process, .. } = self;
        if failure.is::<Lost>()
            && let Ok(end) = reactor.timeout(GRACE, process.ended()).await
        {
            return Failure::msg(format!("the new process, {pid}, has ended: {end}"));
        }
        // The process may have ended.
        let _ = process.terminate(GRACE);
        let _ = process.ended().await;
        Failure::msg(format!("the new process, {pid}, has failed: {failure}"))
    }

    /// Moves the connections whose protocols allow it, all or none. Returns their number.
    pub(crate) async fn move_connections(&self, running: &Running) -> couplet::Result<usize> {
        let (loops, takers) = (&running.loops, &running.program.takers);
        let (reactor, within) = (loops.reactor(), running.table.restart_within.0);
        // No loop accepts any more when the first connection leaves.
        reactor.timeout(within, loops.settle_others(places::pause)).await?;
        let leaving = moving::leave(loops, takers, &self.kinds).await?;
        let moved = reactor.timeout(within, self.give_connections(&leaving)).await;
        if let Err(failure) = moved {
            let forgotten = self.link.ask(Request::Forget, Vec::new());
            match reactor.timeout(GRACE, forgotten).await {
                Ok(_) => {}
                // The new process has taken over by now.
                Err(refused) if refused.is::<Refused>() => {
                    self.link.close();
                    return Ok(leaving.len());
                }
                Err(_) => self.kill(reactor).await,
            }
            // The new process has none of them.
            moving::stay(loops, takers, leaving);
            return Err(failure);
        }
        self.link.close();
        Ok(leaving.len())
    }

    /// Kills the new process, and waits for its end.
    async fn kill(&self, reactor: &Reactor) {
        // The process may have ended.
        let _ = self.process.signal_process(ProcessSignal::KILL);
        let _ = reactor.timeout(GRACE, self.process.ended()).await;
    }

    async fn give_connections(&self, leaving: &[Leaving]) -> couplet::Result<()> {
        for together in moving::batches(leaving) {
            let lengths = together.iter().map(|one| one.record.len()).collect();
            let records = together.iter().flat_map(|one| one.record.iter().copied());
            let records: Vec<u8> = records.collect();
            let descriptors = together.iter().map(Leaving::descriptor);
            let descriptors = descriptors.collect::<io::Result<_>>()?;
            self.link.ask_with(Request::Connections { lengths }, descriptors, &records).await?;
        }
        systemd::main_pid(self.pid);
        self.link.ask(Request::Moved, Vec::new()).await.map(drop)
    }
}

/// The connection to the new process is lost: usually because it has ended.
#[derive(Debug)]
struct Lost;

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its connection is lost")
    }
}

impl std::error::Error for Lost {}

/// The new process has refused a request.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// The new process isn't this one's to end.
struct Child;

impl ProcessProtocol for Child {}

/// The connection to the new process, open until the connections have moved, or one of the two
/// processes has ended.
#[derive(Clone)]
struct Link(Rc<RefCell<LinkState>>);

enum LinkState {
    Opening,
    Open(StringTransport),
    /// The last request waits for its answer.
    Waiting(StringTransport, Resolver<Vec<String>>),
    Lost,
}

impl Link {
    async fn open(reactor: &Reactor, socket: UnixStream) -> couplet::Result<Link> {
        let link = Link(Rc::new(RefCell::new(LinkState::Opening)));
        let mut protocol = Some(IntReceiver::<u32, _>::new(link.clone()));
        let factory = move |_: &Address| protocol.take();
        reactor.adopt(socket, factory)?.await?;
        Ok(link)
    }

    /// Closes the connection immediately: the new process has everything, and its end stays open.
    fn close(&self) {
        if let LinkState::Open(transport) = &*self.0.borrow() {
            transport.abort_connection();
        }
    }

    async fn ask(
        &self,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> couplet::Result<Vec<String>> {
        self.ask_with(request, descriptors, &[]).await
    }

    /// Sends a request, and waits for its answer.
    async fn ask_with(
        &self,
        request: Request,
        descriptors: Vec<OwnedFd>,
        record: &[u8],
    ) -> couplet::Result<Vec<String>> {
        let (deferred, resolver) = Deferred::new();
        let state = self.0.replace(LinkState::Lost);
        let LinkState::Open(transport) = state else {
            return Err(Lost.into());
        };
        *self.0.borrow_mut() = LinkState::Waiting(transport.clone(), resolver);
        let sent = wire::send_request(&transport, request, descriptors, record);
        if let Err(failure) = sent {
            *self.0.borrow_mut() = LinkState::Open(transport);
            return Err(failure);
        }
        deferred.await
    }

    /// Answers the last request, and enters the next state.
    fn answer(
        &self,
        next: impl FnOnce(StringTransport) -> LinkState,
        reply: couplet::Result<Vec<String>>,
    ) {
        let state = self.0.replace(LinkState::Lost);
        match state {
            LinkState::Waiting(transport, resolver) => {
                *self.0.borrow_mut() = next(transport);
                resolver.resolve(reply);
            }
            LinkState::Open(transport) => *self.0.borrow_mut() = next(transport),
            LinkState::Opening | LinkState::Lost => {}
        }
    }
}

impl StringProtocol for Link {
    fn connection_made(&mut self, transport: &StringTransport) {
        *self.0.borrow_mut() = LinkState::Open(transport.clone());
    }

    fn string_received(&mut self, _: &StringTransport, string: &[u8]) {
        let reply = match wire::read(string) {
            Ok((Reply::Done, _)) => Ok(Vec::new()),
            Ok((Reply::Serves { kinds }, _)) => Ok(kinds),
            Ok((Reply::Failed(words), _)) => Err(Refused(words).into()),
            Err(failure) => Err(failure),
        };
        self.answer(LinkState::Open, reply);
    }

    fn connection_lost(&mut self, _: &StringTransport, _: &Reason) {
        self.answer(|_| LinkState::Lost, Err(Lost.into()));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use couplet::Loop;

    use super::*;

    #[test]
    fn a_program_that_was_started_by_a_path_is_at_that_path() {
        let (own, here) = (env::current_exe().unwrap(), env::current_dir().unwrap());
        for (name, wanted) in [
            ("", own.clone()),
            ("couplet", own),
            ("./couplet", here.join("couplet")),
            ("bin/couplet", here.join("bin/couplet")),
            ("/usr/bin/couplet", PathBuf::from("/usr/bin/couplet")),
        ] {
            assert_eq!(path_of(Path::new(name)).unwrap(), wanted, "{name:?}");
        }
    }

    #[test]
    fn a_request_that_cannot_be_sent_leaves_the_link_open() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let answering = std::thread::spawn(move || {
            let mut length = [0; 4];
            theirs.read_exact(&mut length).expect("a request");
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            theirs.read_exact(&mut request).expect("the whole request");
            theirs.write_all(b"\0\0\0\x06\"Done\"").expect("it reads");
            String::from_utf8(request).expect("text")
        });
        let mut l = Loop::new().unwrap();
        let reactor = l.reactor();
        let talk = reactor.clone().spawn(async move {
            let link = Link::open(&reactor, ours).await?;
            // The transport takes 64 descriptors at once.
            let many = (0..65).map(|_| std::fs::File::open("/dev/null").map(OwnedFd::from));
            let many = many.collect::<io::Result<_>>()?;
            let failed = link.ask(Request::Forget, many).await.unwrap_err();
            assert_eq!(failed.to_string(), "cannot send a descriptor to the new process");
            assert!(link.ask(Request::Forget, Vec::new()).await?.is_empty());
            link.close();
            Ok(())
        });
        l.run_until(talk).unwrap();
        let request = answering.join().unwrap();
        assert!(request.contains("Forget"), "{request}");
    }
}
