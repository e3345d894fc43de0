law=9
broken='the sentence in the row of a queue is removed'
apply() {
    swap crates/couplet/tests/it/tidy/queues.txt '^couplet::reactor::Records\.line \|.*' \
        'couplet::reactor::Records.line |'
}
notice() { reads tidy; }
