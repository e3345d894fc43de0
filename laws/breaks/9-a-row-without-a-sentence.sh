law=9
broken='the sentence in the row of a queue is removed'
apply() {
    swap laws/src/tidy/queues.txt '^couplet::reactor::Records\.calls \|.*' \
        'couplet::reactor::Records.calls |'
}
notice() { reads tidy; }
