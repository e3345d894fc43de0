law=4
broken='the memory driver overrides a provided method of `Driver`'
apply() {
    after crates/couplet/src/driver/memory '^impl Driver for Memory \{$' \
        '    fn serve(&mut self, _: &mut dyn crate::driver::Receiver) -> bool { true }'
}
notice() { reads tidy; }
