broken='the cancel of a drain does nothing'
apply() {
    swap crates/couplet-core/src/reactor/turn/draining.rs '^            DrainStage::Finishing\(_\) => self\.next_stage\(io, drain\),' \
        '            DrainStage::Finishing(_) => {}'
}
notice() { runs c105b; }
