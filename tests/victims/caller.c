/* A program that makes one blocking system call and says what came of it.
 *
 * `caller CALL`: says "ready", makes the call, which would take for ever or 20 s, and prints its
 * result and error number, if it ends. `caller list` prints the names of the calls; `caller vfork`
 * waits for the child of a vfork, which ends with its input. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LONG = 20 };

static struct timespec later = { LONG, 0 };
static char bytes[1 << 20];

/* A pair of connected sockets; with a timeout of LONG where `timed`. The other end stays open. */
static int socket_end(int timed, int part)
{
	struct timeval time = { LONG, 0 };
	int ends[2];

	socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
	if (timed) {
		setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
		setsockopt(ends[0], SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time));
	}
	if (part && write(ends[1], bytes, part) != part)
		return -1;
	return ends[0];
}

static int listening(int timed)
{
	struct timeval time = { LONG, 0 };
	int end = socket(AF_INET, SOCK_STREAM, 0);

	if (timed)
		setsockopt(end, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
	listen(end, 1);
	return end;
}

static int pipe_end(int which)
{
	int ends[2];

	return pipe(ends) ? -1 : ends[which];
}

static int epoll_of_nothing(void)
{
	struct epoll_event event = { .events = EPOLLIN };
	int queue = epoll_create1(0);

	epoll_ctl(queue, EPOLL_CTL_ADD, eventfd(0, 0), &event);
	return queue;
}

static struct epoll_event event;

static long c_epoll_wait(void) { return epoll_wait(epoll_of_nothing(), &event, 1, LONG * 1000); }
static long c_epoll_wait_endless(void) { return epoll_wait(epoll_of_nothing(), &event, 1, -1); }
static long c_epoll_pwait_endless(void)
{
	sigset_t none;

	sigemptyset(&none);
	return epoll_pwait(epoll_of_nothing(), &event, 1, -1, &none);
}
static long c_epoll_pwait2(void) { return epoll_pwait2(epoll_of_nothing(), &event, 1, &later, NULL); }
static long c_epoll_pwait2_endless(void) { return epoll_pwait2(epoll_of_nothing(), &event, 1, NULL, NULL); }

static struct pollfd polled = { .events = POLLIN };
static long c_poll(void) { polled.fd = eventfd(0, 0); return poll(&polled, 1, LONG * 1000); }
static long c_ppoll(void) { polled.fd = eventfd(0, 0); return ppoll(&polled, 1, &later, NULL); }
static long c_select(void)
{
	struct timeval time = { LONG, 0 };

	return syscall(SYS_select, 0, NULL, NULL, NULL, &time);
}
static long c_pselect(void) { return pselect(0, NULL, NULL, NULL, &later, NULL); }

static long c_nanosleep(void) { return nanosleep(&later, NULL); }
static long c_clock_nanosleep_absolute(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	time.tv_sec += LONG;
	return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
}

static unsigned word;
static long c_futex(void) { return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &later); }
static long c_futex_endless(void) { return syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL); }

static long c_read_pipe(void) { return read(pipe_end(0), bytes, 1); }
static long c_write_full_pipe(void)
{
	int end = pipe_end(1), flags = fcntl(end, F_GETFL);

	fcntl(end, F_SETFL, flags | O_NONBLOCK);
	while (write(end, bytes, 4096) > 0)
		;
	fcntl(end, F_SETFL, flags);
	return write(end, bytes, 1);
}
static long c_write_pipe_in_part(void) { return write(pipe_end(1), bytes, sizeof(bytes)); }
static long c_read_eventfd(void) { return read(eventfd(0, 0), bytes, 8); }
static long c_read_inotify(void)
{
	int watch = inotify_init1(0);

	inotify_add_watch(watch, "/", IN_UNMOUNT);
	return read(watch, bytes, 4096);
}

static long c_recv(void) { return recv(socket_end(0, 0), bytes, 1, 0); }
static long c_recv_timed(void) { return recv(socket_end(1, 0), bytes, 1, 0); }
static long c_read_socket_timed(void) { return read(socket_end(1, 0), bytes, 1); }
static long c_recv_waitall_in_part(void) { return recv(socket_end(0, 100), bytes, 200, MSG_WAITALL); }
static long c_send_in_part(void) { return send(socket_end(0, 0), bytes, sizeof(bytes), 0); }
static long c_accept(void) { return accept(listening(0), NULL, NULL); }
static long c_accept_timed(void) { return accept(listening(1), NULL, NULL); }

static struct sembuf operation = { 0, -1, 0 };
static long c_semop(void) { return semop(semget(IPC_PRIVATE, 1, 0600), &operation, 1); }
static long c_semtimedop(void) { return semtimedop(semget(IPC_PRIVATE, 1, 0600), &operation, 1, &later); }
static long c_msgrcv(void) { return msgrcv(msgget(IPC_PRIVATE, 0600), bytes, 1, 0, 0); }

static const sigset_t *usr1(void)
{
	static sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return &set;
}
static long c_sigtimedwait(void) { return sigtimedwait(usr1(), NULL, &later); }
static long c_sigwaitinfo(void) { return sigwaitinfo(usr1(), NULL); }
static long c_pause(void) { return pause(); }
static long c_sigsuspend(void) { return sigsuspend(usr1()); }

static pid_t child(void)
{
	pid_t one = fork();

	if (one == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	return one;
}
static long c_wait4(void) { return wait4(child(), NULL, 0, NULL); }
static long c_waitid(void)
{
	siginfo_t info;

	return waitid(P_PID, child(), &info, WEXITED);
}

static long c_flock(void)
{
	int mine = open("/proc/self/exe", O_RDONLY);

	flock(mine, LOCK_EX);
	return flock(open("/proc/self/exe", O_RDONLY), LOCK_EX);
}

static long get_events(struct timespec *time)
{
	aio_context_t ring = 0;
	struct io_event done;

	if (syscall(SYS_io_setup, 1, &ring))
		return -2;
	return syscall(SYS_io_getevents, ring, 1L, 1L, &done, time);
}
static long c_io_getevents(void) { return get_events(&later); }
static long c_io_getevents_endless(void) { return get_events(NULL); }

static long c_io_uring_enter(void)
{
	struct io_uring_params how = { 0 };
	int ring = syscall(SYS_io_uring_setup, 1, &how);

	return ring < 0 ? -2 : syscall(SYS_io_uring_enter, ring, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
}

#define CALL(name) { #name, c_##name }
static const struct {
	const char *name;
	long (*make)(void);
} calls[] = {
	CALL(epoll_wait), CALL(epoll_wait_endless), CALL(epoll_pwait_endless), CALL(epoll_pwait2),
	CALL(epoll_pwait2_endless), CALL(poll), CALL(ppoll), CALL(select), CALL(pselect),
	CALL(nanosleep), CALL(clock_nanosleep_absolute), CALL(futex), CALL(futex_endless),
	CALL(read_pipe), CALL(write_full_pipe), CALL(write_pipe_in_part), CALL(read_eventfd),
	CALL(read_inotify), CALL(recv), CALL(recv_timed), CALL(read_socket_timed),
	CALL(recv_waitall_in_part), CALL(send_in_part), CALL(accept), CALL(accept_timed),
	CALL(semop), CALL(semtimedop), CALL(msgrcv), CALL(sigtimedwait), CALL(sigwaitinfo),
	CALL(pause), CALL(sigsuspend), CALL(wait4), CALL(waitid), CALL(flock), CALL(io_getevents),
	CALL(io_getevents_endless),	CALL(io_uring_enter),
};

/* Nobody can stop us meanwhile. */
static int in_vfork(void)
{
	int status;

	puts("ready");
	fflush(stdout);
	pid_t one = vfork();
	if (one == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(read(0, bytes, 1) != 0);
	}
	return waitpid(one, &status, 0) != one || status;
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "vfork"))
		return in_vfork();
	/* So that semaphores and queues end with us. */
	if (unshare(CLONE_NEWIPC))
		return 2;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (size_t at = 0; argc > 1 && at < sizeof(calls) / sizeof(*calls); at++) {
		if (!strcmp(argv[1], "list"))
			puts(calls[at].name);
		if (strcmp(argv[1], calls[at].name))
			continue;
		puts("ready");
		fflush(stdout);
		long result = calls[at].make();
		printf("%ld %s\n", result, result < 0 ? strerrorname_np(errno) : "");
	}
	return 0;
}
