// step LOWER WORK COUNT: what a RUN cannot do without, COUNT times: fork, namespaces, an overlay on LOWER, /proc, pivot_root,
// exec of /bin/true, wait. An ordinary user's needs a user namespace as well. Prints the median in milliseconds.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void check(int failed, const char *what) {
  if (!failed) return;
  fprintf(stderr, "%s: %s\n", what, strerror(errno));
  _exit(1);
}

static void put(const char *path, const char *text) {
  int fd = open(path, O_WRONLY);
  check(fd < 0 || write(fd, text, strlen(text)) < 0, path);
  close(fd);
}

static int compare(const void *a, const void *b) {
  double x = *(double *)a, y = *(double *)b;
  return (x > y) - (x < y);
}

static void step(const char *lower, const char *work, int number, unsigned uid, unsigned gid) {
  char upper[512], scratch[512], merged[512], options[2048], line[64];
  snprintf(upper, sizeof upper, "%s/u%d", work, number);
  snprintf(scratch, sizeof scratch, "%s/w%d", work, number);
  snprintf(merged, sizeof merged, "%s/m", work);
  snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s,userxattr", lower, upper, scratch);
  mkdir(upper, 0755);
  mkdir(scratch, 0755);
  pid_t outer = fork();
  check(outer < 0, "fork");
  if (!outer) {
    int flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | (uid ? CLONE_NEWUSER : 0);
    check(unshare(flags), "unshare");
    if (uid) {
      put("/proc/self/setgroups", "deny");
      snprintf(line, sizeof line, "0 %u 1", uid);
      put("/proc/self/uid_map", line);
      snprintf(line, sizeof line, "0 %u 1", gid);
      put("/proc/self/gid_map", line);
    }
    check(mount(0, "/", 0, MS_REC | MS_PRIVATE, 0), "private mounts");
    check(mount("overlay", merged, "overlay", 0, options), "overlay");
    pid_t inner = fork();
    if (!inner) {
      check(chdir(merged), "chdir");
      check(mount("proc", "proc", "proc", 0, 0), "proc");
      check(syscall(SYS_pivot_root, ".", "."), "pivot_root");
      check(umount2(".", MNT_DETACH), "umount");
      execl("/bin/true", "true", (char *)0);
      check(1, "exec");
    }
    int status;
    waitpid(inner, &status, 0);
    _exit(WEXITSTATUS(status));
  }
  int status;
  waitpid(outer, &status, 0);
  if (status) exit(1);
}

int main(int count, char **arguments) {
  if (count != 4) return 2;
  int rounds = atoi(arguments[3]);
  double *times = calloc(rounds, sizeof *times);
  char merged[512];
  snprintf(merged, sizeof merged, "%s/m", arguments[2]);
  mkdir(merged, 0755);
  for (int i = 0; i < rounds; i++) {
    double start = now();
    step(arguments[1], arguments[2], i, getuid(), getgid());
    times[i] = now() - start;
  }
  qsort(times, rounds, sizeof *times, compare);
  printf("%.3f\n", times[rounds / 2]);
  return 0;
}
