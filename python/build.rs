//! Refuses untested interpreters before a wheel for them is built, as the package's import does.

use pyo3_build_config::PythonImplementation::CPython;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let python = pyo3_build_config::get();
    let (found, needed) = match python.implementation() {
        CPython if !python.is_free_threaded() => return,
        CPython => ("a free-threaded build of Python", "one with the global interpreter lock"),
        _ => ("this implementation of Python", "CPython"),
    };
    println!("cargo::error=couplet_twisted was never tried on {found}: it needs {needed}");
}
