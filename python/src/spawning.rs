//! Starts child processes.

use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use couplet_os::spawn::{self, Program};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::descriptor::Descriptor;
use crate::looping::system_error;

/// Bytes, or a text or a path as Python passes it to the system.
fn encoded(value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    match value.cast::<PyBytes>() {
        Ok(bytes) => Ok(bytes.as_bytes().to_vec()),
        Err(_) => Ok(value.extract::<PathBuf>()?.into_os_string().into_vec()),
    }
}

fn terminated(bytes: Vec<u8>) -> PyResult<CString> {
    CString::new(bytes).map_err(|_| PyValueError::new_err("embedded null byte"))
}

fn variable(item: PyResult<Bound<'_, PyAny>>) -> PyResult<CString> {
    let (name, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item?.extract()?;
    let mut bytes = encoded(&name)?;
    if bytes.is_empty() || bytes[1..].contains(&b'=') {
        return Err(PyValueError::new_err("illegal environment variable name"));
    }
    bytes.push(b'=');
    bytes.extend(encoded(&value)?);
    terminated(bytes)
}

/// Starts a program with the descriptors `inherited`: pairs of ours and a number of the child's. Returns
/// its process ID; `None` if `os.posix_spawnp` must do it, with a list of descriptors to close.
#[pyfunction]
pub(crate) fn spawn_process(
    file: Bound<'_, PyAny>,
    arguments: Bound<'_, PyAny>,
    environment: Bound<'_, PyAny>,
    inherited: Vec<(Descriptor, i32)>,
) -> PyResult<Option<i32>> {
    let arguments = arguments.try_iter()?.map(|argument| terminated(encoded(&argument?)?));
    let arguments = arguments.collect::<PyResult<Vec<_>>>()?;
    let environment = environment.call_method0("items")?.try_iter()?.map(variable);
    let environment = environment.collect::<PyResult<Vec<_>>>()?;
    if arguments.first().is_none_or(|name| name.is_empty()) {
        return Ok(None);
    }
    let mut named = Vec::with_capacity(inherited.len());
    for (from, to) in &inherited {
        named.push((from.lent().map_err(system_error)?, *to));
    }
    let started = spawn::spawn(&Program {
        file: &terminated(encoded(&file)?)?,
        arguments: &arguments,
        environment: &environment,
        descriptors: &named,
    });
    started.map_err(|error| {
        let error = system_error(error);
        // As `os.posix_spawnp` reports it.
        let _ = error.value(file.py()).setattr("filename", file);
        error
    })
}
