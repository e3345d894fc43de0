law=9
broken='the row of a queue is removed'
apply() { swap laws/src/tidy/queues.txt '^couplet::reactor::Records\.calls \|.*\n' ''; }
notice() { reads tidy; }
