law=c105b
broken='the cancel of a drain does nothing'
apply() {
    swap crates/couplet-core/src/reactor/turn/draining.rs '^            Stage::Finishing => self\.drain_timer_fired\(io, drain\),' \
        '            Stage::Finishing => {}'
}
notice() { runs c105b; }
