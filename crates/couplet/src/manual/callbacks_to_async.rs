//! # From callbacks to Deferreds to async
//!
//! One small client, written seven times. It fetches a poem from a server that writes it and closes,
//! and each version does something that the one before made awkward. Read it once from top to bottom;
//! [`deferreds`](super::deferreds) is the chapter to come back to.
//!
//! | step | new | still awkward |
//! | --- | --- | --- |
//! | 1 | a protocol | it decides what happens to the poem, and a failed connect goes unnoticed |
//! | 2 | a callback for the result | counting results, nesting the next request |
//! | 3 | a Deferred | nothing yet: the result is a value |
//! | 4 | chains and errors | one request after another in closures |
//! | 5 | several at once | loops and branches |
//! | 6 | `async` | the client still has a protocol |
//! | 7 | a stream | it follows a script, and only reads when asked to |
//!
//! The path is that of Dave Peticolas' *Twisted Introduction*; `examples/README.md` has all of its
//! programs. The server stays the same and is left out below:
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
//! It is short, it never blocks, and its test needs no server: [`hold`](crate::testing::hold) it, push
//! a poem, close. But the protocol decides that poems are printed and that the program ends with the
//! first of them. And a refused connect builds no protocol, so nothing of ours is called: the failure
//! is reported to the log, and the program waits forever.
//!
//! ## 2. A callback for the result
//!
//! So the protocol should not know what its poem is for. The caller passes a function, and the factory
//! calls it too if there will be no protocol. That is `get_poem`, a function of its own at last:
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
//! Every failure reaches the caller now, and `get_poem` can be reused. What is missing can be seen in
//! `main`: to wait for two poems, it counts. To translate a poem by another server it would pass a
//! callback to `get_poem` in which it calls `translate` with a callback, and each of them would handle
//! its own failure. Nothing ensures that `done` is called, or called only once; nothing can stop the
//! request; and each function that takes a callback invents its own way to pass one.
//!
//! ## 3. A Deferred
//!
//! A [`Deferred`](crate::Deferred) is that callback as a value: the function returns it, and whoever
//! gets it adds the callback later. The other end is the [`Resolver`](crate::Resolver), which the
//! protocol keeps. Firing consumes it, so a second result doesn't compile; dropping it unfired fails
//! the Deferred, so no result stays pending. `connect` returns a Deferred too, of the connection, and
//! it fails if there is none: so there is no factory left to write.
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
//! [`then`](crate::Deferred::then) is all that this step uses: when the connection is made,
//! [`ask`](crate::Connection::ask) its protocol for the whole poem, and then wait for that. The program
//! is a Deferred too: [`run_until`](crate::run_until) runs until it fires, and stops the reactor.
//!
//! ## 4. Chains and errors
//!
//! Each callback gets the result of the one before. A failure, be it a refused connect, an error of a
//! callback or a panic, skips callbacks until an errback; a value skips errbacks. So errors are handled
//! where that makes sense, as with `?`, and a cancel or a timeout at the end of a chain reaches whatever
//! it is waiting for:
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
//! /// The poem in capitals, by way of another server; of no server, a proverb.
//! fn loud_poem(reactor: &Reactor, server: &str) -> Deferred<String> {
//!     let again = reactor.clone();
//!     get_poem(reactor, server)
//!         .add_callback(|poem| Ok(String::from_utf8(poem)?))
//!         .then(move |poem| upper(&again, poem)) // waits for another Deferred
//!         .add_timeout(reactor, Duration::from_secs(10)) // for all of the above
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
//! A failure that reaches the end of a chain unhandled is reported once, with the place where it arose,
//! unless it is a cancel.
//!
//! ## 5. Several at once
//!
//! A request runs from the moment it is made, so several Deferreds are several requests in progress,
//! and waiting for them is a function of Deferreds. No counting, and a cancel of the whole is a cancel
//! of each:
//!
//! | function | fires with | when one fails |
//! | --- | --- | --- |
//! | [`list`](crate::defer::list) | all results, values and failures | is one of the results |
//! | [`gather`](crate::defer::gather) | all values | fails with that; the others run on |
//! | [`race`](crate::defer::race) | the first value; cancels the rest | waits on, unless it was the last |
//! | [`first_of`](crate::defer::first_of) | the first result; cancels the rest | that may be the first |
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
//! /// The poem of whichever mirror is first.
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
//! What chains are bad at is control flow. "Ask each mirror in turn until one answers, and wait a second
//! before the next round" is a loop, and a chain has none: it needs a function that returns a Deferred
//! of itself. Each closure owns what it uses, hence the clones.
//!
//! ## 6. async
//!
//! A Deferred is a future, and [`spawn`](crate::Reactor::spawn) makes a Deferred of a future. So the
//! loop is a loop, `?` passes a failure on, and locals stay where they are. `get_poem` hasn't changed:
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
//! /// Asks each mirror in turn, until one answers.
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
//! The task runs on the loop's thread, so it may hold an `Rc`, and between two `await`s nothing else
//! runs. It is a Deferred to its caller, so `race`, `add_timeout` and the rest work on tasks too. Note
//! what an `async fn` doesn't do: it doesn't begin until it is awaited or spawned, while a function that
//! returns a Deferred has begun.
//!
//! ## 7. Streams
//!
//! `PoemReader` is still a protocol, which turns bytes into one result. Where a connection follows a
//! script, there is no need for one: a [`Stream`](crate::Stream) is a connection to read from and to
//! write to, and the whole client is this:
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
//! It has a limit, which steps 1 to 6 lack; it closes its connection when its task is cancelled, since
//! that drops the stream; and it reads no faster than it is polled, so back-pressure needs no thought.
//!
//! ## Which to use
//!
//! The steps are not better from first to last; they are for different things.
//!
//! | | use |
//! | --- | --- |
//! | reacts to whatever comes: a chat, a proxy, a broker | a [protocol](crate::Protocol) |
//! | writes without being asked, or serves many connections that share state | a protocol |
//! | is tested by pushing bytes, at every split | a protocol |
//! | asks and waits for an answer: login, transfer, handshake | a [stream](crate::stream) |
//! | one result for a caller, by a library that shouldn't prescribe a style | a function that returns a [Deferred](crate::Deferred) |
//! | steps, loops, early returns | `async` |
//! | several at once, first or all | Deferreds, of tasks if you like |
//!
//! All of them mix in a program, and even on a connection: [`Stream::new`](crate::Stream::new) takes one
//! over from its protocol, and [`Stream::upgrade`](crate::Stream::upgrade) hands it to the next.
