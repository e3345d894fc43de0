//! Network interface numbers, the scopes of link-local IPv6 addresses.
//!
//! Contract: 145a.

/// The number of the interface with this name, such as `eth0`; `None` if there is no such interface.
#[cfg(unix)]
pub fn interface_number(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: `name` is a string that ends in a NUL and lives through the call.
    let number = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (number != 0).then_some(number)
}

/// Always `None`: this system knows interfaces only by number.
#[cfg(not(unix))]
pub fn interface_number(_name: &str) -> Option<u32> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::interface_number;

    #[test]
    fn the_loopback_interface_has_a_number_and_an_unknown_name_has_none() {
        let told = std::fs::read_to_string("/sys/class/net/lo/ifindex").unwrap();
        assert_eq!(interface_number("lo"), told.trim().parse().ok());
        for name in
            ["", "no such interface", "lo\0", "a name that is longer than any interface has"]
        {
            assert_eq!(interface_number(name), None, "{name}");
        }
    }
}
