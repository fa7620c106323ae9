/* Open-loop HTTP/1.1 load at a constant rate over a fixed set of keep-alive connections, one thread, loopback.
 *
 *   pace PORT CONNECTIONS RATE SECONDS REQUESTS OUT
 *
 * Request k is due at start + k / RATE. It takes the connection that has been free the longest; when none is, it waits in
 * line. Its latency runs from when it was DUE to the last byte of its reply, so that time in the line counts: a proxy that
 * stops for 50 ms is charged with every request that was due meanwhile (no coordinated omission).
 * REQUESTS: raw requests with a zero byte between them, taken in turn. Replies must carry Content-Length.
 * OUT: one record per request, in order of completion: due (us since start, u32), latency (us, u32), lateness (us, u32).
 * Lateness is this program's own fault: from when the request could have gone (due, and a connection free) to its send.
 * Prints one line of JSON: due, done, failed (status other than 2xx, broken connection, or unanswered at the end), bytes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 65536, HEAD = 16384 };

typedef struct {
  int fd;
  uint64_t due, free_since;
  uint32_t lateness;
  char head[HEAD];
  size_t have;      /* bytes of the head so far */
  int in_body;
  int status;
  uint64_t left;    /* bytes of the body to come */
  const char *out;  /* what of the request could not be sent at once */
  size_t out_left;
} Connection;

typedef struct { uint32_t due, latency, lateness; } Record;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what) { perror(what); exit(1); }

static Connection *connections;
static int poller, count;
static int *ring, ring_at, ring_size; /* free connections, longest free first */
static Record *records;
static uint64_t done, failed, bytes, start;

static void release(int index) {
  connections[index].free_since = now_ns();
  ring[(ring_at + ring_size++) % count] = index;
}

/* Sends what is left of a request. Returns 0 when the connection broke. */
static int push(Connection *c) {
  while (c->out_left) {
    ssize_t sent = send(c->fd, c->out, c->out_left, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    c->out += sent;
    c->out_left -= (size_t)sent;
  }
  return 1;
}

static int parse_head(Connection *c, char *end) {
  *end = 0;
  if (strncmp(c->head, "HTTP/1.1 ", 9)) return 0;
  c->status = atoi(c->head + 9);
  c->left = UINT64_MAX;
  for (char *line = strstr(c->head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
    if (!strncasecmp(line + 2, "content-length:", 15)) c->left = strtoull(line + 17, NULL, 10);
  return c->left != UINT64_MAX;
}

static void finish(int index) {
  Connection *c = &connections[index];
  uint64_t at = now_ns();
  if (c->status < 200 || c->status > 299) failed++;
  records[done].due = (uint32_t)((c->due - start) / 1000);
  records[done].lateness = c->lateness;
  records[done++].latency = (uint32_t)((at - c->due) / 1000);
  c->in_body = 0;
  c->have = 0;
  release(index);
}

/* Reads what came. Returns 0 when the connection broke or its reply cannot be understood. */
static int pull(int index) {
  static char buffer[BUFFER];
  Connection *c = &connections[index];
  for (;;) {
    char *into = c->in_body ? buffer : c->head + c->have;
    size_t room = c->in_body ? BUFFER : HEAD - 1 - c->have;
    if (!room) return 0;
    ssize_t got = recv(c->fd, into, room, 0);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) return 0;
    bytes += (uint64_t)got;
    if (c->in_body) {
      if ((uint64_t)got > c->left) return 0;
      c->left -= (uint64_t)got;
    } else {
      c->have += (size_t)got;
      c->head[c->have] = 0;
      char *end = strstr(c->head, "\r\n\r\n");
      if (!end) continue;
      uint64_t body = c->have - (size_t)(end + 4 - c->head);
      if (!parse_head(c, end) || body > c->left) return 0;
      c->left -= body;
      c->in_body = 1;
    }
    if (!c->left) { finish(index); return 1; }
    if ((size_t)got < room) return 1;
  }
}

int main(int argc, char **argv) {
  if (argc != 7) { fprintf(stderr, "usage: pace PORT CONNECTIONS RATE SECONDS REQUESTS OUT\n"); return 2; }
  int port = atoi(argv[1]);
  count = atoi(argv[2]);
  double rate = atof(argv[3]), seconds = atof(argv[4]);
  uint64_t total = (uint64_t)(rate * seconds);
  if (count < 1 || rate <= 0 || !total || seconds > 4000) { fprintf(stderr, "pace: bad numbers\n"); return 2; }

  int file = open(argv[5], O_RDONLY);
  struct stat status;
  if (file < 0 || fstat(file, &status)) die(argv[5]);
  char *text = malloc((size_t)status.st_size + 1);
  if (!text || read(file, text, (size_t)status.st_size) != status.st_size) die("read");
  text[status.st_size] = 0;
  size_t kinds = 1;
  for (off_t i = 0; i < status.st_size; i++) kinds += !text[i];
  char **requests = malloc(kinds * sizeof *requests);
  size_t *lengths = malloc(kinds * sizeof *lengths);
  char *cursor = text;
  for (size_t i = 0; i < kinds; i++) {
    requests[i] = cursor;
    lengths[i] = strlen(cursor);
    cursor += lengths[i] + 1;
  }

  prctl(PR_SET_TIMERSLACK, 1000);
  connections = calloc((size_t)count, sizeof *connections);
  ring = calloc((size_t)count, sizeof *ring);
  records = calloc(total, sizeof *records);
  poller = epoll_create1(0);
  if (!connections || !ring || !records || poller < 0) die("set-up");
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  for (int i = 0; i < count; i++) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    connections[i].fd = fd;
    struct epoll_event wish = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.u32 = (uint32_t)i};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &wish);
    release(i);
  }

  start = now_ns() + 1000000;
  uint64_t last = start + (uint64_t)(seconds * 1e9), give_up = last + 10000000000u, next = 0;
  double step = 1e9 / rate;
  uint64_t broken = 0;
  while (done + broken < total) {
    uint64_t at = now_ns();
    if (at > give_up || broken >= (uint64_t)count) break;
    while (next < total && ring_size) {
      uint64_t due = start + (uint64_t)((double)next * step);
      at = now_ns();
      if (due > at) break;
      int index = ring[ring_at];
      ring_at = (ring_at + 1) % count;
      ring_size--;
      Connection *c = &connections[index];
      c->due = due;
      c->lateness = (uint32_t)((at - (due > c->free_since ? due : c->free_since)) / 1000);
      c->out = requests[next % kinds];
      c->out_left = lengths[next % kinds];
      next++;
      if (!push(c)) { broken++; failed++; }
    }
    struct timespec wait = {0, 100000000};
    if (next < total && ring_size) {
      uint64_t due = start + (uint64_t)((double)next * step);
      at = now_ns();
      uint64_t pause = due > at ? due - at : 0;
      if (pause < 100000000u) wait.tv_nsec = (long)pause;
    }
    struct epoll_event events[256];
    int found = epoll_pwait2(poller, events, 256, &wait, NULL);
    if (found < 0 && errno != EINTR) die("epoll_pwait2");
    for (int i = 0; i < found; i++) {
      int index = (int)events[i].data.u32;
      Connection *c = &connections[index];
      if (c->fd < 0) continue;
      if (!push(c) || ((events[i].events & ~(uint32_t)EPOLLOUT) && !pull(index))) {
        close(c->fd);
        c->fd = -1;
        broken++;
        failed++;
      }
    }
  }
  failed += total - done - broken;
  FILE *out = fopen(argv[6], "wb");
  if (!out || fwrite(records, sizeof *records, done, out) != done || fclose(out)) die(argv[6]);
  printf("{\"due\": %llu, \"done\": %llu, \"failed\": %llu, \"bytes\": %llu}\n", (unsigned long long)total,
         (unsigned long long)done, (unsigned long long)failed, (unsigned long long)bytes);
  return 0;
}
