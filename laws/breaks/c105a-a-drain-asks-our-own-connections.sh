broken='a drain includes the connections that we made'
apply() {
    swap crates/couplet-core/src/reactor/turn/draining.rs 'Origin::Connector\(_\)\) => false' 'Origin::Connector(_)) => true'
}
notice() { runs c105 misuse:: snapshot::; }
