//! [`couplet_fuzz::redis`] under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| couplet_fuzz::redis(data));
