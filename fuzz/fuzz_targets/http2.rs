//! [`couplet_fuzz::http2`] under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| couplet_fuzz::http2(data));
