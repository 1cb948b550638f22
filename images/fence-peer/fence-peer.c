/*
 * The program that DRBD's kernel module calls on the host: `fence-peer HANDLER WHAT`, where WHAT
 * is the resource's name (fence-peer) or minor-N (handlers of one device).
 *
 * It lies in a directory of the agent, beside
 *   ours/NAME     one empty file for each resource and each minor that is ours,
 *   previous      the path of the program that the module called before, one line,
 *   fence.sock    the agent's socket.
 * Ours: one line goes to the agent, "HANDLER WHAT FAMILY ADDRESS", its answer is our exit code.
 * Not ours: we become the previous program. Whatever is unsure ends with 1: I/O stays frozen,
 * which is safe, and the agent finishes the question later.
 */
#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { UNSURE = 1, DEADLINE_MILLISECONDS = 4000, WORD_BYTES = 160 };

static long long now_milliseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* Nothing that could leave a directory or break the line. */
static int is_word(const char *text)
{
    size_t length = strlen(text);
    if (length == 0 || length > WORD_BYTES || text[0] == '.')
        return 0;
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)text[i]) && !strchr("-_.:", text[i]))
            return 0;
    return 1;
}

static int path_in(char *out, const char *directory, const char *name)
{
    int length = snprintf(out, PATH_MAX, "%s/%s", directory, name);
    return length > 0 && length < PATH_MAX;
}

static int find_own_directory(char *out)
{
    ssize_t length = readlink("/proc/self/exe", out, PATH_MAX - 1);
    while (length > 0 && out[length - 1] != '/')
        length--;
    if (length <= 1)
        return 0;
    out[length - 1] = '\0';
    return 1;
}

/* Only a name that is certainly absent is somebody else's. 1 ours, 0 not ours, -1 unsure. */
static int is_ours(const char *directory, const char *what)
{
    char marks[PATH_MAX], mark[PATH_MAX];
    struct stat status;
    if (!path_in(marks, directory, "ours") || stat(marks, &status) || !S_ISDIR(status.st_mode))
        return -1;
    if (!is_word(what))
        return 0;
    if (!path_in(mark, marks, what))
        return -1;
    return lstat(mark, &status) == 0;
}

static int become_previous(const char *directory, char **argv)
{
    char path[PATH_MAX], previous[PATH_MAX];
    if (!path_in(path, directory, "previous"))
        return UNSURE;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, previous, sizeof previous - 1);
    if (length <= 0)
        return UNSURE;
    previous[length] = '\0';
    previous[strcspn(previous, "\n")] = '\0';
    if (previous[0] != '/' || !strncmp(previous, directory, strlen(directory)))
        return UNSURE;
    argv[0] = previous;
    execv(previous, argv);
    return UNSURE;
}

/* Wait until the socket is ready for `events`; 0 when the time is over. */
static int is_ready(int fd, short events, long long deadline)
{
    struct pollfd one = {.fd = fd, .events = events};
    long long left = deadline - now_milliseconds();
    return left > 0 && poll(&one, 1, (int)left) == 1;
}

/* The agent's number, or -1. */
static int ask_agent(const char *directory, const char *line, long long deadline)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char answer[8];
    size_t length = strlen(line), done = 0;
    int size = snprintf(address.sun_path, sizeof address.sun_path, "%s/fence.sock", directory);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || size < 0 || (size_t)size >= sizeof address.sun_path)
        return -1;
    if (connect(fd, (struct sockaddr *)&address, sizeof address))
        return -1;
    if (send(fd, line, length, MSG_NOSIGNAL) != (ssize_t)length)
        return -1;
    while (done < sizeof answer - 1 && is_ready(fd, POLLIN, deadline)) {
        ssize_t got = read(fd, answer + done, sizeof answer - 1 - done);
        if (got <= 0)
            return -1;
        done += (size_t)got;
        if (answer[done - 1] == '\n')
            return done == 2 && isdigit((unsigned char)answer[0]) ? answer[0] - '0' : -1;
    }
    return -1;
}

int main(int argc, char **argv)
{
    long long deadline = now_milliseconds() + DEADLINE_MILLISECONDS;
    char directory[PATH_MAX], line[4 * WORD_BYTES + 8];
    if (argc < 3 || !find_own_directory(directory))
        return UNSURE;
    int ours = is_ours(directory, argv[2]);
    if (ours == 0)
        return become_previous(directory, argv);
    if (ours < 0 || !is_word(argv[1]))
        return UNSURE;
    const char *family = getenv("DRBD_PEER_AF"), *address = getenv("DRBD_PEER_ADDRESS");
    family = family && is_word(family) ? family : "-";
    address = address && is_word(address) ? address : "-";
    snprintf(line, sizeof line, "%s %s %s %s\n", argv[1], argv[2], family, address);
    int code = ask_agent(directory, line, deadline);
    if (!strcmp(argv[1], "fence-peer"))
        return code == 4 || code == 6 || code == 7 ? code : UNSURE;
    return code == 0 ? 0 : UNSURE;
}
