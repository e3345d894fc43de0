law=5
broken='`connection_lost` is called a second time'
apply() {
    swap crates/couplet/src/reactor 'entry\.life\.lost\(at\);' 'entry.life.lost(at); entry.life.lost(at);'
}
notice() { runs c01_; }
