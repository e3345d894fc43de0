// An echo over io_uring with liburing, written by hand for this one task: multishot accept and
// receive, buffers lent by a ring, at most one send in flight on a connection.
#include <arpa/inet.h>
#include <errno.h>
#include <liburing.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ENTRIES = 4096, BUFFERS = 4096, SIZE = 16384, DESCRIPTORS = 65536, HELD = 8 };
enum { ACCEPT, RECEIVE, SEND, CANCEL };

// Received buffers form a list in the order of their arrival; the first one is being sent.
struct connection {
	int first, last, held, sent;
	bool is_open, is_receiving, is_stopping;
};

static struct io_uring ring;
static struct io_uring_buf_ring *lent;
static char *memory;
static int next[BUFFERS], length[BUFFERS];
static struct connection connections[DESCRIPTORS];

static void fail(const char *what, int error) {
	fprintf(stderr, "%s: %s\n", what, strerror(error));
	exit(1);
}

static struct io_uring_sqe *entry(void) {
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
	if (sqe)
		return sqe;
	io_uring_submit(&ring);
	return io_uring_get_sqe(&ring);
}

static unsigned long long key(int kind, int fd) {
	return (unsigned long long)kind << 32 | (unsigned)fd;
}

static void give_back(int buffer) {
	io_uring_buf_ring_add(lent, memory + (size_t)buffer * SIZE, SIZE, buffer, BUFFERS - 1, 0);
	io_uring_buf_ring_advance(lent, 1);
}

static void receive(int fd) {
	struct io_uring_sqe *sqe = entry();
	io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->user_data = key(RECEIVE, fd);
	connections[fd].is_receiving = true;
}

static void send_first(int fd) {
	struct connection *it = &connections[fd];
	char *bytes = memory + (size_t)it->first * SIZE + it->sent;
	struct io_uring_sqe *sqe = entry();
	io_uring_prep_send(sqe, fd, bytes, length[it->first] - it->sent, MSG_NOSIGNAL);
	sqe->user_data = key(SEND, fd);
}

// Closes a connection that has ended, once the kernel uses nothing of it.
static void close_unused(int fd) {
	struct connection *it = &connections[fd];
	if (!it->is_open && !it->is_receiving && !it->held)
		close(fd);
}

static void accepted(int fd) {
	if (fd < 0 || fd >= DESCRIPTORS)
		fail("accept", fd < 0 ? -fd : EMFILE);
	connections[fd] = (struct connection){.is_open = true};
	receive(fd);
}

static void received(int fd, int count, unsigned flags) {
	struct connection *it = &connections[fd];
	it->is_receiving = flags & IORING_CQE_F_MORE;
	if (count > 0) {
		int buffer = flags >> IORING_CQE_BUFFER_SHIFT;
		length[buffer] = count;
		next[buffer] = -1;
		if (it->held++)
			next[it->last] = buffer;
		else
			it->first = buffer;
		it->last = buffer;
		if (it->held == 1)
			send_first(fd);
		if (it->held >= HELD && it->is_receiving && !it->is_stopping) {
			struct io_uring_sqe *sqe = entry();
			io_uring_prep_cancel64(sqe, key(RECEIVE, fd), 0);
			sqe->user_data = key(CANCEL, fd);
			it->is_stopping = true;
		}
	} else if (count != -ECANCELED && count != -ENOBUFS) {
		it->is_open = false;
	}
	if (!it->is_receiving) {
		it->is_stopping = false;
		if (it->is_open && it->held < HELD)
			receive(fd);
		else
			close_unused(fd);
	}
}

static void sent(int fd, int count) {
	struct connection *it = &connections[fd];
	if (count < 0) {
		// The receive ends too.
		shutdown(fd, SHUT_RDWR);
		count = length[it->first] - it->sent;
	}
	it->sent += count;
	if (it->sent == length[it->first]) {
		int buffer = it->first;
		it->first = next[buffer];
		it->sent = 0;
		it->held--;
		give_back(buffer);
	}
	if (it->held)
		send_first(fd);
	else if (it->is_open && !it->is_receiving)
		receive(fd);
	else
		close_unused(fd);
}

static int listener(void) {
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof at;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (bind(fd, (struct sockaddr *)&at, size) || listen(fd, 1024) ||
	    getsockname(fd, (struct sockaddr *)&at, &size))
		fail("listen", errno);
	printf("listening on 127.0.0.1:%d\n", ntohs(at.sin_port));
	fflush(stdout);
	return fd;
}

int main(void) {
	struct io_uring_params params = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
		.cq_entries = 4 * ENTRIES,
	};
	int error = io_uring_queue_init_params(ENTRIES, &ring, &params);
	if (error)
		fail("io_uring_setup", -error);
	size_t bytes = BUFFERS * sizeof(struct io_uring_buf);
	if (posix_memalign((void **)&lent, 4096, bytes) || !(memory = malloc((size_t)BUFFERS * SIZE)))
		fail("memory", ENOMEM);
	struct io_uring_buf_reg lending = {.ring_addr = (unsigned long)lent, .ring_entries = BUFFERS};
	if ((error = io_uring_register_buf_ring(&ring, &lending, 0)))
		fail("io_uring_register", -error);
	io_uring_buf_ring_init(lent);
	for (int buffer = 0; buffer < BUFFERS; buffer++)
		give_back(buffer);
	int port = listener();
	struct io_uring_sqe *sqe = entry();
	io_uring_prep_multishot_accept(sqe, port, NULL, NULL, SOCK_CLOEXEC);
	sqe->user_data = key(ACCEPT, port);
	for (;;) {
		io_uring_submit_and_wait(&ring, 1);
		struct io_uring_cqe *cqe;
		unsigned head, seen = 0;
		io_uring_for_each_cqe(&ring, head, cqe) {
			int kind = cqe->user_data >> 32, fd = (int)cqe->user_data;
			if (kind == ACCEPT)
				accepted(cqe->res);
			else if (kind == RECEIVE)
				received(fd, cqe->res, cqe->flags);
			else if (kind == SEND)
				sent(fd, cqe->res);
			seen++;
		}
		io_uring_cq_advance(&ring, seen);
	}
}
