law=c105b
broken='a drain never closes the connections that did not finish'
apply() {
    swap crates/couplet/src/reactor/drain.rs '^            self\.visit\(io, key, if closes .*' \
        '            if !closes { self.visit(io, key, Life::cut); }'
}
notice() { runs c105b; }
