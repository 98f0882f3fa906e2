// Gives up rights, by the way that its argument names, and says what each of its threads has then.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int capset(cap_user_header_t header, const cap_user_data_t data);

static const size_t SIZE = 16 << 20;
static volatile long signals;

static int threads(void) {
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    while (tasks && readdir(tasks))
        count++;
    closedir(tasks);
    return count - 2; // . and ..
}

// Whether some memory maps a slab.
static int is_merged(void) {
    char line[400];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && !found && fgets(line, sizeof line, maps))
        found = strstr(line, "pagemerge-slab") != NULL;
    fclose(maps);
    return found;
}

// A line for each thread: what it may do, and where it is.
static void tell(void) {
    DIR *tasks = opendir("/proc/self/task");
    struct dirent *task;
    while ((task = readdir(tasks))) {
        char path[300], line[300], space[100] = "";
        if (task->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/self/task/%s/ns/mnt", task->d_name);
        if (readlink(path, space, sizeof space - 1) < 0)
            continue; // it has ended
        snprintf(path, sizeof path, "/proc/self/task/%s/status", task->d_name);
        FILE *status = fopen(path, "r");
        while (status && fgets(line, sizeof line, status))
            if (!strncmp(line, "Uid", 3) || !strncmp(line, "CapEff", 6) || !strncmp(line, "NoNew", 5))
                printf("%.*s | ", (int)strcspn(line, "\n"), line);
        printf("%s\n", space);
        fclose(status);
    }
    closedir(tasks);
}

static void killing(const int *numbers, int count) {
    struct sock_filter code[16] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    };
    int at = 1;
    for (int it = 0; it < count; it++) {
        code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, numbers[it], 0, 1);
        code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    }
    code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog filter = {at, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, 2, &filter))
        perror("prctl"), exit(1);
}

static const struct itimerval soon = {{0, 0}, {0, 900}};

static void on_signal(int number) {
    (void)number;
    signals++;
    if (setgid(getgid()))
        _exit(9);
    setitimer(ITIMER_REAL, &soon, 0);
}

// malloc and free, and a signal again and again whose handler changes the group to what it is. The
// next one comes some time after the handler: where it takes longer than that, on a busy host, the
// program would never get on otherwise.
static int interrupted(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    struct sigaction ignored = {.sa_handler = SIG_IGN};
    unsigned char *blocks[2000] = {0};
    unsigned random = 1, wrong = 0;
    sigaction(SIGALRM, &action, 0);
    setitimer(ITIMER_REAL, &soon, 0);
    for (time_t end = time(0) + 3; time(0) < end;)
        for (int turn = 0; turn < 1000; turn++) {
            random = random * 1664525 + 1013904223;
            int it = (random >> 8) % 2000;
            wrong += blocks[it] && blocks[it][0] != (unsigned char)it;
            free(blocks[it]);
            blocks[it] = malloc(8 + (random >> 20) % 600);
            blocks[it][0] = it;
        }
    sigaction(SIGALRM, &ignored, 0);
    return wrong || signals < 50;
}

int main(int argc, char **argv) {
    const char *way = argc > 1 ? argv[1] : "";
    char *memory = malloc(SIZE);
    for (size_t at = 0; at < SIZE; at++)
        memory[at] = at >> 16;
    for (int turn = 0; !is_merged() && turn < 400; turn++)
        free(malloc(1 << 20)), usleep(50000);
    if (threads() < 2 || !is_merged())
        return 7;
    int failed = 0;
    if (!strcmp(way, "drop")) {
        struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
        struct __user_cap_data_struct none[2] = {{0}};
        failed |= syscall(SYS_setresuid, 65534, 65534, 65534) != 0;
        failed |= capset(&header, none) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        tell();
    } else if (!strcmp(way, "unshare")) {
        failed |= unshare(CLONE_NEWNS) != 0;
        tell();
    } else if (!strncmp(way, "filter", 6)) {
        struct rlimit none = {0, 0};
        if (!strcmp(way, "filter without descriptors"))
            failed |= setrlimit(RLIMIT_NOFILE, &none) != 0;
        const int forbidden[] = {SYS_openat, SYS_clone, SYS_clone3, SYS_userfaultfd, SYS_poll};
        killing(forbidden, 5);
        failed |= mlock(memory, SIZE) != 0 && errno != ENOMEM && errno != EPERM;
        free(malloc(8 << 20));
    } else if (!strcmp(way, "ask")) { // as libseccomp does, to learn what the kernel can do
        failed |= syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 1, 0) != -1;
        failed |= syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, 0) != -1;
        failed |= prctl(PR_SET_SECCOMP, 2, 0) != -1;
        failed |= threads() < 2;
    } else if (!strcmp(way, "exit")) {
        syscall(SYS_exit, 3);
    } else if (!strcmp(way, "handler")) {
        failed |= interrupted();
    }
    for (size_t at = 0; at < SIZE; at++)
        failed |= memory[at] != (char)(at >> 16);
    return failed;
}
