law=9
broken='a row names a queue that does not exist'
apply() {
    swap crates/couplet/tests/it/tidy/queues.txt '^couplet::reactor::Records\.calls ' \
        'couplet::reactor::Records.queue '
}
notice() { reads tidy; }
