broken='a driver that takes pieces drops foreign buffers inside `write`'
apply() { swap crates/couplet-core/src/driver/memory 'out\.give_back\(piece\);' 'drop(piece);'; }
notice() { runs c50_an; }
