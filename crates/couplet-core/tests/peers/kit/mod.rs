//! The kit: a [`Scene`] is one of our loops over real sockets, with a folder for certificates; an
//! [`End`] records the events of one of its connections; a [`Program`] is a foreign process.

mod end;
mod program;

use std::process::Command;
use std::time::Duration;

use couplet::endpoints::TcpClient;
use couplet::factory::Layered;
use couplet::layers::Layer;
use couplet::layers::tls::{
    ClientTls, ClientTlsOptions, Identity, ServerTls, ServerTlsOptions, TlsVersion,
};
use couplet::{Address, ConnectOptions, Loop, Reactor};
use rcgen::CertificateParams;

use crate::needed::Folder;
use couplet_testkit_loops::PATIENCE;
use couplet_testkit_loops::authority::Authority;
pub(crate) use end::{End, Ends, Event, echo, quiet};
pub(crate) use program::Program;

pub(crate) use crate::needed::has;

/// The default name in the certificates.
pub(crate) const NAME: &str = "couplet.test";
/// Each version, with OpenSSL's option for it.
pub(crate) const VERSIONS: [(TlsVersion, &str); 2] =
    [(TlsVersion::Tls12, "-tls1_2"), (TlsVersion::Tls13, "-tls1_3")];

pub(crate) struct Scene {
    l: Loop,
    pub(crate) reactor: Reactor,
    pub(crate) authority: Authority,
    folder: Folder,
}

impl Scene {
    pub(crate) fn new() -> Scene {
        let (folder, l) = (Folder::new(), Loop::new().expect("a loop"));
        let authority = Authority::readable("the authority");
        let scene = Scene { reactor: l.reactor(), l, authority, folder };
        scene.write("ca.pem", scene.authority.own_pem());
        scene.write("server.pem", scene.authority.pem(NAME, |_| {}));
        scene
    }

    /// The path of a file in the scene's folder.
    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        self.folder.write(name, bytes);
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("it was written")
    }

    /// Writes a file with a certificate of our authority and its key. Returns the path.
    pub(crate) fn certificate(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> String {
        let file = format!("{name}.pem");
        self.write(&file, self.authority.pem(name, change));
        self.path(&file)
    }

    /// The certificate in a file of the scene.
    pub(crate) fn identity(&self, file: &str) -> Identity {
        let path = self.path(file);
        Identity::from_pem_files(&path, &path).expect("a certificate")
    }

    /// Options with the certificate of [`NAME`].
    pub(crate) fn server_options(&self) -> ServerTlsOptions {
        ServerTlsOptions::new(self.identity("server.pem"))
    }

    pub(crate) fn server(&self, options: ServerTlsOptions) -> ServerTls {
        ServerTls::new(&options).expect("a configuration that works")
    }

    pub(crate) fn client_options(&self) -> ClientTlsOptions {
        ClientTlsOptions::default().roots(self.authority.roots())
    }

    pub(crate) fn client(&self, options: ClientTlsOptions) -> ClientTls {
        ClientTls::new(&options).expect("a configuration that works")
    }

    /// Turns the loop until `done`; `state` describes it if that takes too long.
    fn wait(
        &mut self,
        state: impl Fn(&mut Loop) -> String,
        mut done: impl FnMut(&mut Loop) -> bool,
    ) {
        let late = self.reactor.now() + PATIENCE;
        while !done(&mut self.l) {
            assert!(self.reactor.now() < late, "this takes too long: {}", state(&mut self.l));
            self.l.turn(Some(Duration::from_millis(2))).expect("the driver waits");
        }
    }

    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        self.wait(|_| what.to_owned(), |_| done());
    }

    /// Waits until the program's output contains this text.
    pub(crate) fn until_said(&mut self, program: &Program, text: &str) {
        self.until_said_times(program, text, 1);
    }

    /// Waits until the program's output contains this text `times` times.
    pub(crate) fn until_said_times(&mut self, program: &Program, text: &str, times: usize) {
        self.wait(
            |_| format!("{text:?} in\n{}", program.said()),
            |_| program.said().matches(text).count() >= times,
        );
    }

    /// Waits until the ports have accepted `count` connections.
    pub(crate) fn until_accepted(&mut self, count: u64) {
        self.wait(|l| l.snapshot().to_string(), |l| accepted(l) >= count);
    }

    /// Number of connections that the ports have accepted.
    pub(crate) fn accepted(&mut self) -> u64 {
        accepted(&mut self.l)
    }

    /// Waits until the layers of `count` accepted connections have failed to open.
    pub(crate) fn until_not_opened(&mut self, count: u64) {
        let not_opened =
            |l: &mut Loop| l.snapshot().ports.iter().map(|port| port.counters.not_opened).sum();
        self.wait(|l| l.snapshot().to_string(), |l| count <= not_opened(l));
    }

    /// Waits until every connection has ended.
    pub(crate) fn until_idle(&mut self) {
        self.wait(|l| l.snapshot().to_string(), |l| l.snapshot().connections.is_empty());
    }

    /// Waits until more than `than` bytes have arrived on open connections.
    pub(crate) fn until_more_arrived(&mut self, than: u64) {
        self.wait(|l| l.snapshot().to_string(), |l| arrived(l) > than);
    }

    pub(crate) fn arrived(&mut self) -> u64 {
        arrived(&mut self.l)
    }

    /// Runs a program to its end; true if it succeeded.
    pub(crate) fn ended(&mut self, program: &mut Program) -> bool {
        let (mut outcome, said) = (None, program.output());
        self.wait(
            |_| format!("the end of what says\n{}", said()),
            |_| {
                outcome = program.outcome();
                outcome.is_some()
            },
        );
        outcome.expect("it was waited for")
    }

    /// Runs a program to its end; returns whether it succeeded, and its output.
    pub(crate) fn run(&mut self, command: &mut Command) -> (bool, String) {
        let mut program = Program::start(command);
        program.close_stdin();
        let success = self.ended(&mut program);
        (success, program.said())
    }

    /// Listens with a layer. Returns the port's number.
    pub(crate) fn listen_over<L: Layer + 'static>(
        &self,
        ends: &Ends,
        layer: impl FnMut(&Reactor, &Address) -> L + 'static,
    ) -> u16 {
        let factory = Layered::new(ends.factory(), layer);
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let port = self.reactor.listen(any, factory).expect("a free port");
        port.host().port().expect("a TCP port")
    }

    /// Listens with TLS. Returns the port's number.
    pub(crate) fn listen(&self, tls: &ServerTls, ends: &Ends) -> u16 {
        let tls = tls.clone();
        self.listen_over(ends, move |reactor, _| tls.layer(reactor.now()))
    }

    /// Connects with a layer.
    pub(crate) fn connect_over<L: Layer + 'static>(
        &self,
        port: u16,
        ends: &Ends,
        layer: impl FnMut(&Reactor, &Address) -> L + 'static,
    ) -> End {
        let end = ends.next();
        let (made, failed) = (end.clone(), end.clone());
        let factory = Layered::new(move || made.clone(), layer);
        let options = ConnectOptions::default();
        let connecting =
            self.reactor.connect(TcpClient::new("127.0.0.1", port).options(options), factory);
        connecting
            .add_both(move |outcome| {
                if let Err(failure) = outcome {
                    failed.not_connected(&failure);
                }
                Ok(())
            })
            .detach();
        end
    }

    /// Connects to a TLS port, whose certificate must be for [`NAME`].
    pub(crate) fn connect(&self, tls: &ClientTls, port: u16, ends: &Ends) -> End {
        let tls = tls.clone();
        let layer = move |reactor: &Reactor, _: &Address| tls.layer(NAME, reactor.now());
        self.connect_over(port, ends, move |reactor, peer| {
            layer(reactor, peer).expect("a good name")
        })
    }

    /// `openssl` with these arguments, in the scene's folder.
    pub(crate) fn openssl(&self, words: &[&str]) -> Command {
        let mut command = Command::new("openssl");
        command.args(words).current_dir(&*self.folder);
        command
    }

    /// Another program with these arguments, in the scene's folder.
    pub(crate) fn command(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(words).current_dir(&*self.folder);
        command
    }
}

fn accepted(l: &mut Loop) -> u64 {
    l.snapshot().ports.iter().map(|port| port.counters.accepted).sum()
}

fn arrived(l: &mut Loop) -> u64 {
    l.snapshot().connections.iter().map(|connection| connection.wire[0]).sum()
}
