//! Couplet's loop for Python: the native half of `couplet_twisted.reactor`.
//!
//! All code here runs under the interpreter's lock, which the loop releases while it waits. The
//! first thread that runs a loop owns it; other threads post their requests to it ([`seat`]).

mod answers;
#[cfg(not(target_os = "linux"))]
mod batch;
mod bridge;
mod channel;
mod connection;
mod datagrams;
mod descriptor;
mod ending;
mod framing;
mod http2;
mod inspecting;
mod logging;
mod looping;
mod peers;
mod port;
mod raw_headers;
mod ready;
mod request;
mod seat;
mod spawning;
mod stream;
mod timers;
mod tls;
mod watch;
mod web;
mod webclient;

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;

/// Locks, ignoring poison.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[pymodule]
fn _couplet(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(logging::log_to, module)?)?;
    module.add_function(wrap_pyfunction!(descriptor::inheritable, module)?)?;
    module.add_function(wrap_pyfunction!(ending::park_threads, module)?)?;
    module.add_function(wrap_pyfunction!(ending::forget_threads, module)?)?;
    module.add_function(wrap_pyfunction!(spawning::spawn_process, module)?)?;
    module.add_function(wrap_pyfunction!(web::parse_head, module)?)?;
    module.add_function(wrap_pyfunction!(web::combined_line, module)?)?;
    module.add_function(wrap_pyfunction!(webclient::parse_response, module)?)?;
    module.add_function(wrap_pyfunction!(webclient::request_head, module)?)?;
    module.add_function(wrap_pyfunction!(webclient::split_uri, module)?)?;
    module.add_function(wrap_pyfunction!(webclient::set_headers, module)?)?;
    module.add_function(wrap_pyfunction!(webclient::add_header, module)?)?;
    module.add_function(wrap_pyfunction!(webclient::is_sound, module)?)?;
    module.add_class::<web::Fields>()?;
    module.add_class::<request::Steps>()?;
    module.add_class::<channel::Learned>()?;
    module.add_class::<request::Receiver>()?;
    module.add_class::<http2::Http2>()?;
    module.add_class::<http2::Headers>()?;
    module.add_class::<http2::ResponseHeaders>()?;
    module.add_class::<inspecting::Inspection>()?;
    module.add_class::<looping::Loop>()?;
    module.add_class::<connection::Connection>()?;
    module.add_class::<port::Port>()?;
    module.add_class::<datagrams::Datagrams>()?;
    module.add_class::<tls::Tls>()?;
    module.add_class::<tls::Negotiated>()?;
    module.add_class::<stream::Stream>()?;
    module.add_class::<ready::Ready>()?;
    module.add_class::<framing::Framing>()?;
    module.add_class::<framing::Messages>()?;
    module.add_class::<watch::Watch>()?;
    module.add_class::<timers::DelayedCall>()
}
