//! [`Client`]: requests over connections that are kept for the next ones.

mod connecting;
#[cfg(feature = "decompression")]
pub(super) mod decoding;
mod options;
mod pool;
mod redirect;

#[cfg(any(feature = "tls", feature = "ring"))]
use std::cell::OnceCell;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, header};
use http_body_util::Full;

use super::Body;
use super::body::Progress;
pub use options::{ClientOptions, HttpError};
use pool::{Kept, Origin, Pool, Sender};

#[cfg(any(feature = "tls", feature = "ring"))]
use crate::layers::tls::ClientTls;
use crate::{Failure, Reactor};

/// An HTTP client for a loop: HTTP/1.1 and, where ALPN chooses it, HTTP/2. Cheap to clone; the clones
/// share their connections.
///
/// ```
/// use couplet::http::{Body, Client, Request, Response};
/// use std::convert::Infallible;
/// use tower::service_fn;
///
/// async fn hello(request: Request<Body>) -> Result<Response<String>, Infallible> {
///     Ok(Response::new(format!("you asked for {}", request.uri().path())))
/// }
///
/// let answer = couplet::run_until(|reactor| {
///     let (client, port) = (Client::new(reactor), reactor.serve_http("localhost:0", service_fn(hello)));
///     reactor.spawn(async move {
///         let address = port?.host().socket_addr().expect("a TCP port");
///         let answer = client.get(format!("http://{address}/poems")).await?;
///         Ok(answer.into_body().bytes(1_000_000).await?)
///     })
/// })?;
/// assert_eq!(answer, "you asked for /poems");
/// # Ok::<(), couplet::Failure>(())
/// ```
#[derive(Clone)]
pub struct Client {
    inner: Rc<Inner>,
}

struct Inner {
    reactor: Reactor,
    options: ClientOptions,
    #[cfg(any(feature = "tls", feature = "ring"))]
    tls: OnceCell<ClientTls>,
    pool: RefCell<Pool>,
}

/// A request that may be sent more than once.
struct Asking {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Client {
    /// A client with the default options.
    pub fn new(reactor: &Reactor) -> Client {
        Client::with_options(reactor, ClientOptions::default())
    }

    /// A client with these options.
    pub fn with_options(reactor: &Reactor, options: ClientOptions) -> Client {
        let inner = Inner {
            reactor: reactor.clone(),
            options,
            #[cfg(any(feature = "tls", feature = "ring"))]
            tls: OnceCell::new(),
            pool: RefCell::default(),
        };
        Client { inner: Rc::new(inner) }
    }

    /// Asks for a URL by GET: [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn get(&self, url: impl AsRef<str>) -> Result<Response<Body>, HttpError> {
        let url = url.as_ref();
        let request = Request::get(url).body(Bytes::new());
        self.send(request.map_err(|_| HttpError::Url(url.to_owned()))?).await
    }

    /// Sends a request to the server in its URL, and follows redirections. Ready when the head of the
    /// answer has come; the body comes as it is read.
    ///
    /// A connection whose answer was read to its end serves the next request. A request that met a
    /// connection which the server had just closed is sent again, if nothing of it was sent or its
    /// method is idempotent (RFC 9110, 9.2.2).
    ///
    /// With the feature `decompression`, a request that has neither `accept-encoding` nor `range` asks
    /// for gzip, deflate, br and zstd. An answer in one of them is decoded as its body is read, whoever
    /// asked for that, and has no `content-encoding` and no `content-length`.
    ///
    /// Cancel-safe: the connection of a future that is dropped is closed, unless others share it.
    ///
    /// # Errors
    ///
    /// [`HttpError`]. An answer of 404 or 500 is none.
    pub async fn send(
        &self,
        request: Request<impl Into<Bytes>>,
    ) -> Result<Response<Body>, HttpError> {
        let (head, body) = request.into_parts();
        let (method, uri, headers) = (head.method, head.uri, head.headers);
        #[cfg_attr(not(feature = "decompression"), expect(unused_mut, reason = "nothing to add"))]
        let mut asking = Asking { method, uri, headers, body: body.into() };
        #[cfg(feature = "decompression")]
        if self.inner.options.decompress {
            decoding::ask(&mut asking.headers);
        }
        let Some(limit) = self.inner.options.timeout else { return self.follow(asking).await };
        let answering = async { Ok::<_, Failure>(self.follow(asking).await) };
        self.inner.reactor.timeout(limit, answering).await.unwrap_or(Err(HttpError::TimedOut))
    }

    async fn follow(&self, mut asking: Asking) -> Result<Response<Body>, HttpError> {
        for _ in 0..=self.inner.options.max_redirects {
            let answer = self.ask(&asking).await?;
            match redirect::next(&mut asking, &answer)? {
                true => {}
                false => return Ok(answer),
            }
        }
        Err(HttpError::TooManyRedirects(self.inner.options.max_redirects))
    }

    /// Sends a request, over a connection that is there or a new one.
    async fn ask(&self, asking: &Asking) -> Result<Response<Body>, HttpError> {
        let origin = Origin::of(&asking.uri)?;
        loop {
            let now = self.inner.reactor.now();
            let kept = self.inner.pool.borrow_mut().take(&origin, now);
            let is_kept = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect(&origin).await?,
            };
            if is_kept && !sender.is_ready().await {
                continue;
            }
            let request = asking.request(&origin, &sender, self.inner.options.proxy.is_some());
            match sender.send(request).await {
                Ok(answer) => {
                    let (head, incoming) = answer.into_parts();
                    let limit = (&self.inner.reactor, self.inner.options.body_timeout);
                    let (body, progress) = Body::new(incoming, Some(limit));
                    self.keep(origin, sender, progress);
                    let answer = Response::from_parts(head, body);
                    return Ok(self.decoded(&asking.method, answer));
                }
                Err(refused) => {
                    let is_unsent = refused.message().is_some();
                    if !(is_kept && (is_unsent || asking.method.is_idempotent())) {
                        return Err(HttpError::Broken(refused.into_error()));
                    }
                }
            }
        }
    }

    #[cfg(feature = "decompression")]
    fn decoded(&self, method: &Method, answer: Response<Body>) -> Response<Body> {
        let options = &self.inner.options;
        if !options.decompress {
            return answer;
        }
        decoding::decoded(method, answer, options.max_decoded)
    }

    #[cfg(not(feature = "decompression"))]
    fn decoded(&self, _: &Method, answer: Response<Body>) -> Response<Body> {
        answer
    }

    /// Keeps a connection for the next request.
    fn keep(&self, origin: Origin, sender: Sender, answer: Option<Arc<Progress>>) {
        let Sender::Http1(sender) = sender else { return };
        let (inner, options) = (&self.inner, &self.inner.options);
        let until = inner.reactor.now() + options.keep_alive;
        let kept = Kept { sender, answer, until };
        inner.pool.borrow_mut().keep(origin, kept, options.max_idle);
        inner.sweep_later();
    }
}

impl Inner {
    /// Closes idle connections when their time has come.
    fn sweep_later(self: &Rc<Self>) {
        let mut pool = self.pool.borrow_mut();
        if let Some(until) = pool.to_sweep() {
            let weak = Rc::downgrade(self);
            let after = until.saturating_duration_since(self.reactor.now());
            let call = self.reactor.call_later(after, move || {
                if let Some(inner) = weak.upgrade() {
                    let gone = inner.pool.borrow_mut().sweep(inner.reactor.now());
                    drop(gone);
                    inner.sweep_later();
                }
            });
            pool.set_sweeper(call);
        }
    }
}

impl Asking {
    /// The request as it goes over the wire.
    fn request(&self, origin: &Origin, sender: &Sender, has_proxy: bool) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        match sender {
            Sender::Http2(_) => {
                *request.uri_mut() = self.uri.clone();
                *request.version_mut() = Version::HTTP_2;
            }
            Sender::Http1(_) => {
                let is_absolute = has_proxy && !origin.is_https;
                let path = self.uri.path_and_query().filter(|_| !is_absolute).cloned();
                *request.uri_mut() = path.map_or_else(|| self.uri.clone(), Uri::from);
                if let Ok(host) = HeaderValue::try_from(origin.authority()) {
                    request.headers_mut().entry(header::HOST).or_insert(host);
                }
            }
        }
        request
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.inner.pool.borrow().len();
        f.debug_struct("Client").field("kept", &kept).finish_non_exhaustive()
    }
}
