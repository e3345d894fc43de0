law=9
broken='a row names a queue that does not exist'
apply() {
    swap laws/src/tidy/queues.txt '^couplet::reactor::Records\.calls ' \
        'couplet::reactor::Records.queue '
}
notice() { reads tidy; }
