broken='a protocol opens a UNIX socket'
apply() {
    append crates/couplet-core/src/protocols/line.rs \
        'fn dial() -> bool { std::os::unix::net::UnixStream::connect("/run/socket").is_ok() }
    const _: fn() -> bool = dial;'
}
notice() { reads tidy; }
