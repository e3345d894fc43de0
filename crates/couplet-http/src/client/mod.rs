//! [`Client`]: sends requests over pooled connections.
//!
//! Contract: 176, 176c–177.

mod connecting;
#[cfg(feature = "decompression")]
pub(super) mod decoding;
mod exchange;
mod options;
pub(super) mod pool;
mod redirect;

#[cfg(any(feature = "tls", feature = "ring"))]
use std::cell::OnceCell;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, header, uri};
use http_body_util::Full;

use super::{Body, parse_url};
use exchange::FailedExchange;
pub use options::{ClientOptions, HttpError};
use pool::{Lease, LeasedConnection, Origin, Pool, Scheme};

#[cfg(any(feature = "tls", feature = "ring"))]
use couplet_core::layers::tls::ClientTls;
use couplet_core::{Failure, Reactor};

/// An HTTP client for a loop: HTTP/1.1 and, if ALPN selects it, HTTP/2. Clones are cheap, and share
/// their connections.
///
/// ```
/// use couplet::http::{Body, Client, HttpExt, Request, Response};
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

/// A request that can be sent more than once.
struct PendingRequest {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Client {
    /// Creates a client with the default options.
    pub fn new(reactor: &Reactor) -> Client {
        Client::with_options(reactor, ClientOptions::default())
    }

    /// Creates a client with these options.
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

    /// Sends a GET request to a URL, which may have characters beyond ASCII: [`parse_url`]. See
    /// [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub async fn get(&self, url: impl AsRef<str>) -> Result<Response<Body>, HttpError> {
        let url = url.as_ref();
        let parsed = parse_url(url).ok_or_else(|| HttpError::Url(url.to_owned()))?;
        let request = Request::get(parsed).body(Bytes::new());
        self.send(request.map_err(|_| HttpError::Url(url.to_owned()))?).await
    }

    /// Sends a request to the server named in its URL, and follows redirects. Resolves when the
    /// head of the response has arrived; the body arrives when it is read.
    ///
    /// Once a response is read to its end, its connection is reused. A request without a response
    /// is repeated once, after [`repeat_pause`](ClientOptions::repeat_pause), in two cases: the
    /// server did not process it (it was not sent, or HTTP/2 refused it: RFC 9113, 8.7), or its
    /// method is idempotent (RFC 9110, 9.2.2) and a reused connection broke without a byte of a
    /// response.
    ///
    /// With the feature `decompression`, a request with neither `accept-encoding` nor `range` asks
    /// for gzip, deflate, br and zstd. A response in one of these codings is decoded as its body is
    /// read, even if the caller set `accept-encoding`, and loses its `content-encoding` and
    /// `content-length`.
    ///
    /// Cancel-safe: dropping the future closes its connection, unless other requests share it.
    ///
    /// # Errors
    ///
    /// [`HttpError`]. Responses such as 404 or 500 are not errors.
    pub async fn send(
        &self,
        request: Request<impl Into<Bytes>>,
    ) -> Result<Response<Body>, HttpError> {
        let (head, body) = request.into_parts();
        let (method, uri, headers) = (head.method, head.uri, head.headers);
        #[cfg_attr(not(feature = "decompression"), expect(unused_mut, reason = "nothing to add"))]
        let mut pending = PendingRequest { method, uri, headers, body: body.into() };
        #[cfg(feature = "decompression")]
        if self.inner.options.decompress {
            decoding::offer_codings(&mut pending.headers);
        }
        let Some(limit) = self.inner.options.timeout else {
            return self.send_following_redirects(pending).await;
        };
        let answering = async { Ok::<_, Failure>(self.send_following_redirects(pending).await) };
        self.inner.reactor.timeout(limit, answering).await.unwrap_or(Err(HttpError::TimedOut))
    }

    async fn send_following_redirects(
        &self,
        mut pending: PendingRequest,
    ) -> Result<Response<Body>, HttpError> {
        for _ in 0..=self.inner.options.max_redirects {
            let answer = self.send_with_repeat(&pending).await?;
            match redirect::apply(&mut pending, &answer)? {
                true => {}
                false => return Ok(answer),
            }
        }
        Err(HttpError::TooManyRedirects(self.inner.options.max_redirects))
    }

    /// Sends a request, and repeats it once if that is safe.
    async fn send_with_repeat(
        &self,
        pending: &PendingRequest,
    ) -> Result<Response<Body>, HttpError> {
        let origin = Origin::from_uri(&pending.uri)?;
        let lease = self.lease(&origin).await?;
        let answer = match self.exchange(pending, lease).await {
            Err(FailedExchange::Repeatable(_)) => {
                // Fails only while the loop is dropped.
                let _ = self.inner.reactor.sleep(self.inner.options.repeat_pause).await;
                let lease = self.lease(&origin).await?;
                self.exchange(pending, lease).await
            }
            answered => answered,
        };
        let answer = answer.map_err(FailedExchange::into_error)?;
        Ok(self.decode(&pending.method, answer))
    }

    #[cfg(feature = "decompression")]
    fn decode(&self, method: &Method, answer: Response<Body>) -> Response<Body> {
        let options = &self.inner.options;
        if !options.decompress {
            return answer;
        }
        decoding::decode(method, answer, options.max_decoded)
    }

    #[cfg(not(feature = "decompression"))]
    fn decode(&self, _: &Method, answer: Response<Body>) -> Response<Body> {
        answer
    }
}

impl Inner {
    /// When a connection that is made now gets no more requests.
    fn retires_at(&self) -> Option<Instant> {
        self.reactor.now().checked_add(self.options.max_age?)
    }

    /// Schedules the closing of idle connections whose keep-alive time is over.
    fn schedule_sweep(self: &Rc<Self>) {
        let mut pool = self.pool.borrow_mut();
        if let Some(until) = pool.next_sweep() {
            let weak = Rc::downgrade(self);
            let after = until.saturating_duration_since(self.reactor.now());
            let call = self.reactor.call_later(after, move || {
                if let Some(inner) = weak.upgrade() {
                    let swept = inner.pool.borrow_mut().sweep(inner.reactor.now());
                    drop(swept);
                    inner.schedule_sweep();
                }
            });
            pool.set_sweeper(call);
        }
    }
}

impl PendingRequest {
    /// Builds the request for this connection, without the URL's user and password.
    fn request(&self, lease: &Lease, has_proxy: bool) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        let path = self.uri.path_and_query().cloned();
        let whole = || {
            let scheme = self.uri.scheme_str().unwrap_or_default();
            let whole = uri::Builder::new().scheme(scheme).authority(lease.origin.authority());
            let whole =
                whole.path_and_query(self.uri.path_and_query().map_or("/", |at| at.as_str()));
            whole.build().unwrap_or_else(|_| self.uri.clone())
        };
        match lease.connection {
            LeasedConnection::Http2(_) => {
                *request.uri_mut() = whole();
                *request.version_mut() = Version::HTTP_2;
            }
            LeasedConnection::Http1(_) => {
                let is_absolute = has_proxy && lease.origin.scheme == Scheme::Http;
                let path = path.filter(|_| !is_absolute);
                *request.uri_mut() = path.map_or_else(whole, Uri::from);
                if let Ok(host) = HeaderValue::try_from(lease.origin.authority()) {
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
