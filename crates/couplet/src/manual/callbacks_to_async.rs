//! # From callbacks to Deferreds to async
//!
//! This chapter writes one small client seven times. The client fetches a poem from a server that
//! writes it and closes, and each version fixes a weakness of the one before. Read it once from top
//! to bottom, and use [`deferreds`](super::deferreds) for reference.
//!
//! | step | new | still awkward |
//! | --- | --- | --- |
//! | 1 | a protocol | it decides the fate of the poem, and a failed connect goes unnoticed |
//! | 2 | a callback for the result | counting results, nesting requests |
//! | 3 | a Deferred | one result only, used once |
//! | 4 | chains and errors | one request at a time |
//! | 5 | concurrent requests | loops and branches |
//! | 6 | `async` | a protocol just to collect bytes |
//! | 7 | a stream | |
//!
//! The order follows Dave Peticolas' *Twisted Introduction*; `examples/README.md` lists all of its
//! programs, rewritten. The server is the same in all steps, and is not shown again:
//!
//! ```
//! # use std::time::Duration;
//! # use couplet::{Protocol, Transport};
//! /// Thinks for a while, recites a poem, and closes.
//! struct Poet {
//!     thinks: Duration,
//!     poem: &'static str,
//! }
//!
//! impl Protocol for Poet {
//!     fn connection_made(&mut self, transport: &Transport) {
//!         let poem = self.poem;
//!         let poet = transport.connection::<Poet>();
//!         poet.call_later(self.thinks, move |_, transport| {
//!             transport.write(poem);
//!             transport.lose_connection();
//!         });
//!     }
//!     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
//! }
//! # let mut held = couplet::testing::hold(Poet { thinks: Duration::ZERO, poem: "O" });
//! # held.settle();
//! # assert_eq!(held.wire.take(), b"O");
//! ```
//!
//! ## 1. A protocol
//!
//! A protocol has a method for each event, so the client is a protocol that collects bytes until the
//! connection ends. The poem is complete if the end was clean:
//!
//! ```
//! use couplet::{Protocol, Reason, Transport};
//! # use std::time::Duration;
//! # struct Poet { thinks: Duration, poem: &'static str }
//! # impl Protocol for Poet {
//! #     fn connection_made(&mut self, transport: &Transport) {
//! #         let poem = self.poem;
//! #         let poet = transport.connection::<Poet>();
//! #         poet.call_later(self.thinks, move |_, transport| {
//! #             transport.write(poem);
//! #             transport.lose_connection();
//! #         });
//! #     }
//! #     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
//! # }
//! # thread_local!(static READ: std::cell::RefCell<Vec<u8>> = Default::default());
//!
//! struct PoemPrinter {
//!     poem: Vec<u8>,
//! }
//!
//! impl Protocol for PoemPrinter {
//!     fn data_received(&mut self, _: &Transport, data: &[u8]) {
//!         self.poem.extend_from_slice(data);
//!     }
//!     fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
//!         if reason.is_clean() {
//!             print!("{}", String::from_utf8_lossy(&self.poem));
//!         } else {
//!             eprintln!("no poem: {reason}");
//!         }
//! #       READ.set(std::mem::take(&mut self.poem));
//!         transport.reactor().stop();
//!     }
//! }
//!
//! fn main() -> couplet::Result<()> {
//!     couplet::run(|reactor| {
//! #       let poet = || Poet { thinks: Duration::ZERO, poem: "O Rose thou art sick.\n" };
//! #       let server = reactor.listen("localhost:0", poet)?.host().to_string();
//!         reactor.connect(&server, || PoemPrinter { poem: Vec::new() }).detach();
//!         Ok(())
//!     })?;
//! #   assert_eq!(READ.take(), b"O Rose thou art sick.\n");
//!     Ok(())
//! }
//! ```
//!
//! It is short, it never blocks, and a test needs no server: [`hold`](crate::testing::hold) the
//! protocol, push a poem, close. But the protocol decides that poems are printed and that the
//! program ends with the first one. And a refused connect builds no protocol, so none of our code
//! is called: the failure is only logged, and the program waits forever.
//!
//! ## 2. A callback for the result
//!
//! The protocol should not depend on the use of its poem. So the caller passes a function, which
//! the factory also calls if the connect fails. This makes `get_poem` reusable:
//!
//! ```
//! use std::{cell::RefCell, rc::Rc};
//!
//! use couplet::{Address, Connector, ConnectionLost, Factory, Protocol, Reactor, Reason, Transport};
//! # use std::time::Duration;
//! # struct Poet { thinks: Duration, poem: &'static str }
//! # impl Protocol for Poet {
//! #     fn connection_made(&mut self, transport: &Transport) {
//! #         let poem = self.poem;
//! #         let poet = transport.connection::<Poet>();
//! #         poet.call_later(self.thinks, move |_, transport| {
//! #             transport.write(poem);
//! #             transport.lose_connection();
//! #         });
//! #     }
//! #     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
//! # }
//!
//! /// Called once, with the poem or with what went wrong.
//! type Done = Rc<dyn Fn(couplet::Result<Vec<u8>>)>;
//!
//! struct PoemReader {
//!     poem: Vec<u8>,
//!     done: Done,
//! }
//!
//! impl Protocol for PoemReader {
//!     fn data_received(&mut self, _: &Transport, data: &[u8]) {
//!         self.poem.extend_from_slice(data);
//!     }
//!     fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
//!         (self.done)(match reason.is_clean() {
//!             true => Ok(std::mem::take(&mut self.poem)),
//!             false => Err(ConnectionLost(reason.clone()).into()),
//!         });
//!     }
//! }
//!
//! struct PoemFactory {
//!     done: Done,
//! }
//!
//! impl Factory for PoemFactory {
//!     type Protocol = PoemReader;
//!
//!     fn build_protocol(&mut self, _: &Address) -> Option<PoemReader> {
//!         Some(PoemReader { poem: Vec::new(), done: self.done.clone() })
//!     }
//!     fn client_connection_failed(&mut self, _: &Connector, reason: &Reason) {
//!         (self.done)(Err(ConnectionLost(reason.clone()).into()));
//!     }
//! }
//!
//! fn get_poem(reactor: &Reactor, port: u16, done: Done) {
//!     reactor.connect_tcp("127.0.0.1", port, PoemFactory { done });
//! }
//!
//! fn main() -> couplet::Result<()> {
//!     let poems = Rc::new(RefCell::new(Vec::new()));
//!     couplet::run(|reactor| {
//! #       let poet = || Poet { thinks: Duration::ZERO, poem: "O Rose thou art sick.\n" };
//! #       let number = reactor.listen("127.0.0.1:0", poet)?.host().port().unwrap();
//! #       let ports = [number, number];
//!         for port in ports {
//!             let (poems, stopping) = (poems.clone(), reactor.clone());
//!             get_poem(reactor, port, Rc::new(move |poem| {
//!                 poems.borrow_mut().push(poem);
//!                 if poems.borrow().len() == ports.len() {
//!                     stopping.stop();
//!                 }
//!             }));
//!         }
//!         Ok(())
//!     })?;
//!     for poem in poems.take() {
//!         println!("{}", String::from_utf8(poem?)?);
//!     }
//! #   assert!(Rc::strong_count(&poems) == 1);
//!     Ok(())
//! }
//! ```
//!
//! Now every failure reaches the caller. But `main` counts results to know when it is done. To have
//! each poem translated by another server, it would call `translate` with a second callback inside
//! the first, and handle the failures of both. Nothing ensures that `done` is called, or called
//! only once; the request cannot be stopped; and every such function has its own convention for
//! callbacks.
//!
//! ## 3. A Deferred
//!
//! A [`Deferred`](crate::Deferred) is a result that arrives later, as a value: the function returns
//! it, and the caller adds its callback to it. The protocol keeps the other end, the
//! [`Resolver`](crate::Resolver). Firing consumes the resolver, so a second result doesn't compile;
//! dropping it unfired fails the Deferred, so no result stays pending forever. `connect` returns a
//! Deferred of the connection, which fails if the connect does, so no factory has to be written:
//!
//! ```
//! use couplet::{ConnectionLost, Deferred, Protocol, Reactor, Reason, Resolver, Transport};
//! # use std::time::Duration;
//! # struct Poet { thinks: Duration, poem: &'static str }
//! # impl Protocol for Poet {
//! #     fn connection_made(&mut self, transport: &Transport) {
//! #         let poem = self.poem;
//! #         let poet = transport.connection::<Poet>();
//! #         poet.call_later(self.thinks, move |_, transport| {
//! #             transport.write(poem);
//! #             transport.lose_connection();
//! #         });
//! #     }
//! #     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
//! # }
//!
//! #[derive(Default)]
//! struct PoemReader {
//!     poem: Vec<u8>,
//!     done: Option<Resolver<Vec<u8>>>,
//! }
//!
//! impl PoemReader {
//!     /// Fires with the whole poem.
//!     fn whole(&mut self) -> Deferred<Vec<u8>> {
//!         let (poem, done) = Deferred::new();
//!         self.done = Some(done);
//!         poem
//!     }
//! }
//!
//! impl Protocol for PoemReader {
//!     fn data_received(&mut self, _: &Transport, data: &[u8]) {
//!         self.poem.extend_from_slice(data);
//!     }
//!     fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
//!         let Some(done) = self.done.take() else { return };
//!         match reason.is_clean() {
//!             true => done.callback(std::mem::take(&mut self.poem)),
//!             false => done.errback(ConnectionLost(reason.clone())),
//!         }
//!     }
//! }
//!
//! fn get_poem(reactor: &Reactor, server: &str) -> Deferred<Vec<u8>> {
//!     reactor
//!         .connect(server, PoemReader::default)
//!         .then(|connection| connection.ask(|reader, _| reader.whole()))
//!         .then(|poem| poem)
//! }
//!
//! fn main() -> couplet::Result<()> {
//!     let poem = couplet::run_until(|reactor| {
//! #       let poet = || Poet { thinks: Duration::ZERO, poem: "O Rose thou art sick.\n" };
//! #       let port = reactor.listen("localhost:0", poet).expect("a free port");
//! #       let server = port.host().to_string();
//!         get_poem(reactor, &server)
//!     })?;
//!     print!("{}", String::from_utf8(poem)?);
//!     Ok(())
//! }
//! ```
//!
//! This step uses only [`then`](crate::Deferred::then): once the connection is made,
//! [`ask`](crate::Connection::ask) its protocol for the whole poem, then wait for the poem. The
//! whole program is a Deferred too: [`run_until`](crate::run_until) runs the reactor until that
//! Deferred fires.
//!
//! ## 4. Chains and errors
//!
//! Each callback gets the result of the previous one. A failure (a refused connect, an error of a callback,
//! a panic) skips callbacks until an errback handles it; a value skips errbacks. So errors are handled in
//! one place, as with `?`. A timeout at the end of a chain covers all of it:
//!
//! ```
//! # use couplet::{ConnectionLost, Deferred, Protocol, Reactor, Reason, Resolver, Transport};
//! use std::time::Duration;
//!
//! use couplet::ConnectError;
//! # struct Poet { thinks: Duration, poem: &'static str }
//! # impl Protocol for Poet {
//! #     fn connection_made(&mut self, transport: &Transport) {
//! #         let poem = self.poem;
//! #         let poet = transport.connection::<Poet>();
//! #         poet.call_later(self.thinks, move |_, transport| {
//! #             transport.write(poem);
//! #             transport.lose_connection();
//! #         });
//! #     }
//! #     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
//! # }
//! # #[derive(Default)]
//! # struct PoemReader { poem: Vec<u8>, done: Option<Resolver<Vec<u8>>> }
//! # impl PoemReader {
//! #     fn whole(&mut self) -> Deferred<Vec<u8>> {
//! #         let (poem, done) = Deferred::new();
//! #         self.done = Some(done);
//! #         poem
//! #     }
//! # }
//! # impl Protocol for PoemReader {
//! #     fn data_received(&mut self, _: &Transport, data: &[u8]) { self.poem.extend_from_slice(data); }
//! #     fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
//! #         let Some(done) = self.done.take() else { return };
//! #         match reason.is_clean() {
//! #             true => done.callback(std::mem::take(&mut self.poem)),
//! #             false => done.errback(ConnectionLost(reason.clone())),
//! #         }
//! #     }
//! # }
//! # fn get_poem(reactor: &Reactor, server: &str) -> Deferred<Vec<u8>> {
//! #     let connecting = reactor.connect(server, PoemReader::default);
//! #     connecting.then(|connection| connection.ask(|reader, _| reader.whole())).then(|poem| poem)
//! # }
//! # fn upper(reactor: &Reactor, poem: String) -> Deferred<String> {
//! #     reactor.defer_later(Duration::from_millis(1), move || Ok(poem.to_uppercase()))
//! # }
//!
//! /// The poem in capitals, from another server; a proverb if the connect fails.
//! fn loud_poem(reactor: &Reactor, server: &str) -> Deferred<String> {
//!     let again = reactor.clone();
//!     get_poem(reactor, server)
//!         .add_callback(|poem| Ok(String::from_utf8(poem)?))
//!         .then(move |poem| upper(&again, poem)) // waits for another Deferred
//!         .add_timeout(reactor, Duration::from_secs(10)) // for everything above
//!         .add_errback(|failure| match failure.is::<ConnectError>() {
//!             true => Ok("SILENCE IS GOLDEN".to_owned()),
//!             false => Err(failure),
//!         })
//! }
//!
//! fn main() -> couplet::Result<()> {
//!     let poem = couplet::run_until(|reactor| {
//! #       let poet = || Poet { thinks: Duration::ZERO, poem: "O Rose" };
//! #       let port = reactor.listen("localhost:0", poet).expect("a free port");
//! #       let server = port.host().to_string();
//!         loud_poem(reactor, &server)
//!     })?;
//!     println!("{poem}");
//! #   assert_eq!(poem, "O ROSE");
//! #   let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
//! #   assert_eq!(couplet::run_until(|reactor| loud_poem(reactor, &free))?, "SILENCE IS GOLDEN");
//!     Ok(())
//! }
//! ```
//!
//! A failure that is still unhandled when the end of its chain is dropped is reported once, with
//! its origin. Cancels are not reported.
//!
//! ## 5. Concurrent requests
//!
//! A request is in progress from the moment its Deferred is made. So several Deferreds are
//! concurrent requests, and the functions that wait for them do the counting. Cancelling the group
//! cancels each member:
//!
//! | function | fires with | if a member fails |
//! | --- | --- | --- |
//! | [`list`](crate::defer::list) | all results, values and failures | the failure is one of the results |
//! | [`gather`](crate::defer::gather) | all values | fails with the first failure; the others keep running |
//! | [`race`](crate::defer::race) | the first value; cancels the rest | waits for the others; fails if all do |
//! | [`first_of`](crate::defer::first_of) | the first result; cancels the rest | the failure counts as a result |
//!
//! ```
//! # use couplet::{ConnectionLost, Deferred, Protocol, Reactor, Reason, Resolver, Transport};
//! # use std::time::Duration;
//! use couplet::defer::{gather, race};
//! # struct Poet { thinks: Duration, poem: &'static str }
//! # impl Protocol for Poet {
//! #     fn connection_made(&mut self, transport: &Transport) {
//! #         let poem = self.poem;
//! #         let poet = transport.connection::<Poet>();
//! #         poet.call_later(self.thinks, move |_, transport| {
//! #             transport.write(poem);
//! #             transport.lose_connection();
//! #         });
//! #     }
//! #     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
//! # }
//! # #[derive(Default)]
//! # struct PoemReader { poem: Vec<u8>, done: Option<Resolver<Vec<u8>>> }
//! # impl PoemReader {
//! #     fn whole(&mut self) -> Deferred<Vec<u8>> {
//! #         let (poem, done) = Deferred::new();
//! #         self.done = Some(done);
//! #         poem
//! #     }
//! # }
//! # impl Protocol for PoemReader {
//! #     fn data_received(&mut self, _: &Transport, data: &[u8]) { self.poem.extend_from_slice(data); }
//! #     fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
//! #         let Some(done) = self.done.take() else { return };
//! #         match reason.is_clean() {
//! #             true => done.callback(std::mem::take(&mut self.poem)),
//! #             false => done.errback(ConnectionLost(reason.clone())),
//! #         }
//! #     }
//! # }
//! # fn get_poem(reactor: &Reactor, server: &str) -> Deferred<Vec<u8>> {
//! #     let connecting = reactor.connect(server, PoemReader::default);
//! #     connecting.then(|connection| connection.ask(|reader, _| reader.whole())).then(|poem| poem)
//! # }
//!
//! /// The poem from whichever mirror is first.
//! fn from_mirrors(reactor: &Reactor, mirrors: &[String]) -> Deferred<Vec<u8>> {
//!     race(mirrors.iter().map(|mirror| get_poem(reactor, mirror))).map(|(_index, poem)| poem)
//! }
//!
//! fn main() -> couplet::Result<()> {
//!     let poems = couplet::run_until(|reactor| {
//! #       let mut serve = |thinks, poem| {
//! #           let poet = move || Poet { thinks, poem };
//! #           let port = reactor.listen("localhost:0", poet).expect("a free port");
//! #           port.host().to_string()
//! #       };
//! #       let slow = serve(Duration::from_secs(3600), "slow");
//! #       let quick = serve(Duration::from_millis(1), "O Rose");
//! #       let other = serve(Duration::from_millis(1), "The Tyger");
//!         let rose = from_mirrors(reactor, &[slow, quick]);
//!         gather([rose, get_poem(reactor, &other)]) // both in progress
//!     })?;
//! #   assert_eq!(poems, [b"O Rose".to_vec(), b"The Tyger".to_vec()]);
//!     for poem in poems {
//!         println!("{}", String::from_utf8(poem)?);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! Chains are bad at control flow. "Ask the mirrors one after the other until one answers, and wait
//! a second before the next round" is a loop; with chains it takes a recursive function. And every
//! closure owns its captures, hence the clones.
//!
//! ## 6. async
//!
//! A Deferred is a future, and [`spawn`](crate::Reactor::spawn) turns a future into a Deferred. So
//! the loop is an ordinary loop, `?` propagates failures, and local variables survive an `await`.
//! `get_poem` is unchanged:
//!
//! ```
//! # use couplet::{ConnectionLost, Deferred, Protocol, Reason, Resolver, Transport};
//! use std::time::Duration;
//!
//! use couplet::{ConnectError, Reactor};
//! # struct Poet { thinks: Duration, poem: &'static str }
//! # impl Protocol for Poet {
//! #     fn connection_made(&mut self, transport: &Transport) {
//! #         let poem = self.poem;
//! #         let poet = transport.connection::<Poet>();
//! #         poet.call_later(self.thinks, move |_, transport| {
//! #             transport.write(poem);
//! #             transport.lose_connection();
//! #         });
//! #     }
//! #     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
//! # }
//! # #[derive(Default)]
//! # struct PoemReader { poem: Vec<u8>, done: Option<Resolver<Vec<u8>>> }
//! # impl PoemReader {
//! #     fn whole(&mut self) -> Deferred<Vec<u8>> {
//! #         let (poem, done) = Deferred::new();
//! #         self.done = Some(done);
//! #         poem
//! #     }
//! # }
//! # impl Protocol for PoemReader {
//! #     fn data_received(&mut self, _: &Transport, data: &[u8]) { self.poem.extend_from_slice(data); }
//! #     fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
//! #         let Some(done) = self.done.take() else { return };
//! #         match reason.is_clean() {
//! #             true => done.callback(std::mem::take(&mut self.poem)),
//! #             false => done.errback(ConnectionLost(reason.clone())),
//! #         }
//! #     }
//! # }
//! # fn get_poem(reactor: &Reactor, server: &str) -> Deferred<Vec<u8>> {
//! #     let connecting = reactor.connect(server, PoemReader::default);
//! #     connecting.then(|connection| connection.ask(|reader, _| reader.whole())).then(|poem| poem)
//! # }
//!
//! /// Asks one mirror after the other, until one answers.
//! async fn persistent(reactor: Reactor, mirrors: Vec<String>) -> couplet::Result<String> {
//!     loop {
//!         for mirror in &mirrors {
//!             match get_poem(&reactor, mirror).await {
//!                 Ok(poem) => return Ok(String::from_utf8(poem)?),
//!                 Err(failure) if failure.is::<ConnectError>() => eprintln!("{mirror}: {failure}"),
//!                 Err(failure) => return Err(failure),
//!             }
//!         }
//!         reactor.sleep(Duration::from_secs(1)).await?;
//!     }
//! }
//!
//! fn main() -> couplet::Result<()> {
//!     let poem = couplet::run_until(|reactor| {
//! #       let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
//! #       let poet = || Poet { thinks: Duration::from_millis(1), poem: "O Rose" };
//! #       let port = reactor.listen("localhost:0", poet).expect("a free port");
//! #       let mirrors = vec![free.to_string(), port.host().to_string()];
//!         reactor.spawn(persistent(reactor.clone(), mirrors))
//!     })?;
//!     println!("{poem}");
//! #   assert_eq!(poem, "O Rose");
//!     Ok(())
//! }
//! ```
//!
//! The task runs on the loop's thread, so it may hold an `Rc`, and nothing else runs between two
//! `await`s. To its caller it is a Deferred, so `race`, `add_timeout` and the rest work on tasks
//! too. There is one difference: an `async fn` begins when it is awaited or spawned, a function
//! that returns a Deferred when it is called.
//!
//! ## 7. Streams
//!
//! `PoemReader` is a protocol whose only purpose is to collect bytes. A client that follows a
//! script doesn't need one. It can read from and write to a [`Stream`](crate::Stream), and becomes:
//!
//! ```
//! use couplet::Reactor;
//! # use couplet::{Protocol, Transport};
//! # use std::time::Duration;
//! # struct Poet { thinks: Duration, poem: &'static str }
//! # impl Protocol for Poet {
//! #     fn connection_made(&mut self, transport: &Transport) {
//! #         let poem = self.poem;
//! #         let poet = transport.connection::<Poet>();
//! #         poet.call_later(self.thinks, move |_, transport| {
//! #             transport.write(poem);
//! #             transport.lose_connection();
//! #         });
//! #     }
//! #     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
//! # }
//!
//! /// The longest poem, in bytes.
//! const LONGEST: usize = 1024 * 1024;
//!
//! async fn get_poem(reactor: Reactor, server: String) -> couplet::Result<String> {
//!     let mut stream = reactor.connect_stream(&server).await?;
//!     let mut poem = Vec::new();
//!     stream.read_to_end(&mut poem, LONGEST).await?;
//!     Ok(String::from_utf8(poem)?)
//! }
//!
//! fn main() -> couplet::Result<()> {
//!     let poem = couplet::run_until(|reactor| {
//! #       let poet = || Poet { thinks: Duration::from_millis(1), poem: "O Rose" };
//! #       let port = reactor.listen("localhost:0", poet).expect("a free port");
//! #       let server = port.host().to_string();
//!         reactor.spawn(get_poem(reactor.clone(), server))
//!     })?;
//!     println!("{poem}");
//! #   assert_eq!(poem, "O Rose");
//!     Ok(())
//! }
//! ```
//!
//! This version also limits the poem's length, unlike steps 1 to 6. A cancel closes the connection,
//! since it drops the stream. And a stream that isn't read makes the peer wait, so back-pressure is
//! automatic.
//!
//! ## Which to use
//!
//! Later steps are not better than earlier ones; they suit different code.
//!
//! | code that | uses |
//! | --- | --- |
//! | reacts to unpredictable input: a chat, a proxy, a broker | a [protocol](crate::Protocol) |
//! | writes unprompted, or shares state between many connections | a protocol |
//! | sends a request and waits for the answer: a login, a transfer, a handshake | a [stream](crate::stream) |
//! | returns one result, in a library that shouldn't impose a style | a function that returns a [Deferred](crate::Deferred) |
//! | has steps, loops, early returns | `async` |
//! | waits for the first or for all of several results | Deferreds, including those of tasks |
//!
//! The styles mix within a program, and even on one connection: [`Stream::new`](crate::Stream::new)
//! takes a connection over from its protocol, and [`Stream::upgrade`](crate::Stream::upgrade)
//! passes it on to another one.
