broken='`connection_lost` is called a second time'
apply() {
    swap crates/couplet-core/src/reactor/turn/steps.rs 'entry\.life\.lost\(now\);' 'entry.life.lost(now); entry.life.lost(now);'
}
notice() { runs c01_; }
