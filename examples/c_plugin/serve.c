/* serve.c - see serve.h; the names and numbers are those of docs/rpc-protocol.md.
 *
 * A payload without BESIDE is one encoded value.  With BESIDE, large buffers come first, each at a
 * multiple of 64 bytes, then the value, the length of each buffer (u64), the number of buffers and
 * the length of the value (u32 each).  Little-endian, which this program takes for granted.
 * The host may be trusted here, but lengths are checked all the same. */
#include "serve.h"

#include <hub.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HELLO = 0xFF01, BYE = 0xFF03, PING = 0xFF04, PONG = 0xFF05, CALL = 0xFF10, NOTIFY = 0xFF11,
       RESULT = 0xFF12, ERROR = 0xFF13, CANCEL = 0xFF14, PART = 0xFF20 };
enum { KWARGS = 0x01, BESIDE = 0x02, CODED = 0x04, PARTS = 0x08, STREAM = 0x10, UPLOADS = 0x40,
       FIRST = 0x80 };
#define ABOUT (UINT64_C(1) << 62)

#define GRACE 200000000 /* ns without a slot before a message goes in parts */
#define BUFFERS_MAX ARGUMENTS_MAX
#define TEXT_MAX 120
#define PARTS_MAX (UINT64_C(1) << 32)

typedef struct server {
    hub_session *session;
    hub_transport *transport;
    int failed; /* the transport's last word */
    struct parts *parts;
} server;

/* A call whose payload has come in part; several may come at the same time. */
typedef struct parts {
    struct parts *next;
    uint64_t id, length;
    unsigned char *data;
} parts;

struct call {
    server *server;
    hub_message asked;
    hub_slot slot;       /* of the arguments; .data NULL: they lie in private memory */
    unsigned char *data; /* the payload */
    uint64_t length;
    bool answered;
};

/* ---- writing plain data -------------------------------------------------- */
typedef struct text {
    unsigned char *data;
    size_t length, capacity;
} text;

static void put(text *t, const void *data, size_t length)
{
    if (t->capacity - t->length < length) {
        t->capacity = 2 * (t->length + length);
        t->data = realloc(t->data, t->capacity);
        if (t->data == NULL)
            abort(); /* the host starts another */
    }
    memcpy(t->data + t->length, data, length);
    t->length += length;
}

static void put_sized(text *t, char tag, const void *data, size_t length)
{
    uint32_t size = (uint32_t)length;
    put(t, &tag, 1);
    put(t, &size, sizeof size);
    put(t, data, length);
}

static void put_count(text *t, char tag, uint32_t count)
{
    put(t, &tag, 1);
    put(t, &count, sizeof count);
}

static void put_str(text *t, const char *s)
{
    put_sized(t, 's', s, strlen(s));
}

static void put_int(text *t, int64_t number)
{
    put(t, "i", 1);
    put(t, &number, sizeof number);
}

/* ---- sending ------------------------------------------------------------- */
static int send_once(server *s, const hub_message *message, const void *data, uint64_t length,
                     int64_t deadline)
{
    int rc;
    do
        rc = hub_send(s->transport, HUB_TO_DEFAULT, message, data, length, deadline);
    while (rc == HUB_EINTR);
    return rc;
}

/* A message never has to wait for a slot: without one it goes piece by piece through the ring. */
static int send_in_parts(server *s, hub_message message, const unsigned char *data, uint64_t length)
{
    hub_message part = {.message_id = message.message_id, .channel = PART,
                        .method = message.channel & 0xFF, .flags = FIRST};
    int rc = 0;
    while (rc == 0 && length > HUB_INLINE_MAX) {
        rc = send_once(s, &part, data, HUB_INLINE_MAX, HUB_FOREVER);
        part.flags = 0;
        data += HUB_INLINE_MAX;
        length -= HUB_INLINE_MAX;
    }
    message.flags |= PARTS;
    return rc == 0 ? send_once(s, &message, data, length, HUB_FOREVER) : rc;
}

static void post(server *s, uint16_t kind, uint64_t id, const void *data, uint64_t length)
{
    hub_message message = {.message_id = id, .channel = kind};
    int64_t deadline = length > HUB_INLINE_MAX ? hub_clock_ns() + GRACE : HUB_FOREVER;
    int rc = send_once(s, &message, data, length, deadline);
    if (rc == HUB_ETIMEDOUT || rc == HUB_EEXHAUSTED || rc == HUB_ENOSPC)
        rc = send_in_parts(s, message, data, length);
    if (rc != 0)
        s->failed = rc;
}

static void say_hello(server *s, const method *methods, size_t count)
{
    text t = {0};
    put_count(&t, 'd', 5);
    put_str(&t, "rpc"), put_int(&t, 1);
    put_str(&t, "shmhub"), put_str(&t, "a plugin in C");
    put_str(&t, "codec"), put_str(&t, "plain");
    put_str(&t, "threads"), put_int(&t, 1);
    put_str(&t, "methods"), put_count(&t, 'l', (uint32_t)count);
    for (size_t i = 0; i < count; i++) {
        put_count(&t, 'd', 5);
        put_str(&t, "name"), put_str(&t, methods[i].name);
        put_str(&t, "kind"), put_str(&t, "call");
        put_str(&t, "signature"), put_str(&t, methods[i].signature);
        put_str(&t, "doc"), put_str(&t, methods[i].doc);
        put_str(&t, "idempotent"), put(&t, methods[i].idempotent ? "T" : "F", 1);
    }
    post(s, HELLO, 0, t.data, t.length);
    free(t.data);
}

/* ---- answers ------------------------------------------------------------- */
static bool begin_answer(call *c)
{
    bool wanted = !c->answered && c->asked.channel != NOTIFY;
    c->answered = true;
    return wanted;
}

static void fail(call *c, const char *reason, const char *type, const char *words)
{
    text t = {0};
    if (!begin_answer(c))
        return;
    put_count(&t, 't', 7);
    put_str(&t, reason);
    put_str(&t, type);
    put_sized(&t, 's', words, strlen(words) < TEXT_MAX ? strlen(words) : TEXT_MAX);
    put_str(&t, ""); /* a traceback */
    put_str(&t, type);
    put_count(&t, 'd', 0);
    put(&t, "N", 1);
    post(c->server, ERROR, c->asked.message_id, t.data, t.length);
    free(t.data);
}

void answer_error(call *c, const char *type, const char *words)
{
    fail(c, "raised", type, words);
}

static void answer_value(call *c, text *t)
{
    if (begin_answer(c))
        post(c->server, RESULT, c->asked.message_id, t->data, t->length);
    free(t->data);
}

void answer_int(call *c, int64_t number)
{
    text t = {0};
    put_int(&t, number);
    answer_value(c, &t);
}

void answer_bytes(call *c, const void *data, size_t length)
{
    text t = {0};
    put_sized(&t, 'b', data, length);
    answer_value(c, &t);
}

void answer_argument(call *c, const argument *a)
{
    /* The buffer, 'B' and its index, its length, how many buffers, the length of the value. */
    unsigned char end[21] = {'B', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0};
    if (c->slot.data == NULL || a->data != c->slot.data || a->length + sizeof end > c->length) {
        answer_bytes(c, a->data, a->length);
        return;
    }
    if (!begin_answer(c))
        return;
    memcpy(end + 5, &a->length, sizeof a->length);
    memcpy(a->data + a->length, end, sizeof end);
    hub_message message = {.message_id = c->asked.message_id, .channel = RESULT, .flags = BESIDE};
    uint64_t length = a->length + sizeof end;
    int rc;
    do
        rc = hub_send_slot(c->server->transport, HUB_TO_DEFAULT, &message, &c->slot, length,
                           HUB_FOREVER);
    while (rc == HUB_EINTR);
    if (rc == 0)
        c->slot.data = NULL; /* it is the host's now */
    else
        c->server->failed = rc;
}

/* ---- reading arguments --------------------------------------------------- */
typedef struct reader {
    unsigned char *at, *end;
    unsigned char *buffers[BUFFERS_MAX];
    uint64_t lengths[BUFFERS_MAX];
    uint32_t count;
} reader;

static bool take(reader *r, void *target, size_t length)
{
    if ((size_t)(r->end - r->at) < length)
        return false;
    memcpy(target, r->at, length);
    r->at += length;
    return true;
}

/* Where the value and the buffers beside it lie. */
static bool open_payload(reader *r, call *c)
{
    uint32_t tail[2];
    uint64_t begin = 0;
    r->count = 0;
    r->at = c->data;
    r->end = c->data + c->length;
    if (!(c->asked.flags & BESIDE))
        return true;
    if (c->length < sizeof tail)
        return false;
    memcpy(tail, r->end - sizeof tail, sizeof tail);
    if (tail[0] > BUFFERS_MAX || c->length - sizeof tail < 8 * (uint64_t)tail[0] + tail[1])
        return false;
    r->end -= sizeof tail + 8 * tail[0];
    r->at = r->end - tail[1];
    r->count = tail[0];
    memcpy(r->lengths, r->end, 8 * tail[0]);
    for (uint32_t i = 0; i < r->count; i++) {
        begin = (begin + 63) & ~UINT64_C(63);
        uint64_t room = (uint64_t)(r->at - c->data);
        if (begin > room || r->lengths[i] > room - begin)
            return false;
        r->buffers[i] = c->data + begin;
        begin += r->lengths[i];
    }
    return true;
}

static bool read_argument(reader *r, argument *a)
{
    uint32_t size;
    char tag;
    if (!take(r, &tag, 1))
        return false;
    a->kind = tag;
    switch (tag) {
    case 'N': case 'T': case 'F':
        return true;
    case 'i':
        return take(r, &a->number, sizeof a->number);
    case 'f':
        return take(r, &a->real, sizeof a->real);
    case 's': case 'b': case 'a': case 'm':
        if (!take(r, &size, sizeof size) || (size_t)(r->end - r->at) < size)
            return false;
        a->kind = tag == 's' ? 's' : 'b';
        a->data = r->at;
        a->length = size;
        r->at += size;
        return true;
    case 'B': case 'A': case 'V':
        if (!take(r, &size, sizeof size) || size >= r->count)
            return false;
        a->kind = 'b';
        a->data = r->buffers[size];
        a->length = r->lengths[size];
        return true;
    default: /* a list, a dict, a huge int, an array with a shape */
        return false;
    }
}

static void execute(call *c, const method *m)
{
    argument arguments[ARGUMENTS_MAX];
    reader r;
    uint32_t count = 0;
    char tag, kinds[ARGUMENTS_MAX + 1] = "", told[TEXT_MAX];
    memset(arguments, 0, sizeof arguments);
    if (c->asked.deadline_ns != 0 && c->asked.deadline_ns <= hub_clock_ns()) {
        fail(c, "deadline", "", "");
        return;
    }
    bool readable = !(c->asked.flags & (KWARGS | CODED | STREAM | UPLOADS)) &&
                    open_payload(&r, c) && take(&r, &tag, 1) && tag == 't' &&
                    take(&r, &count, sizeof count) && count <= ARGUMENTS_MAX;
    for (uint32_t i = 0; readable && i < count; i++) {
        readable = read_argument(&r, &arguments[i]);
        kinds[i] = arguments[i].kind;
    }
    if (!readable || strcmp(kinds, m->takes) != 0) {
        snprintf(told, sizeof told, "it is %s%s", m->name, m->signature);
        fail(c, "arguments", "TypeError", told);
        return;
    }
    m->function(c, arguments);
    if (!c->answered) {
        text none = {0};
        put(&none, "N", 1);
        answer_value(c, &none);
    }
}

/* ---- receiving ----------------------------------------------------------- */
static parts **find_parts(server *s, uint64_t call_id)
{
    parts **at = &s->parts;
    while (*at != NULL && (*at)->id != call_id)
        at = &(*at)->next;
    return at;
}

static void drop_parts(parts **at)
{
    parts *gone = *at;
    if (gone == NULL)
        return;
    *at = gone->next;
    free(gone->data);
    free(gone);
}

static void add_part(parts **at, uint64_t call_id, const unsigned char *data, uint64_t length)
{
    if (*at == NULL) {
        *at = calloc(1, sizeof **at);
        if (*at == NULL)
            abort();
        (*at)->id = call_id;
    }
    parts *p = *at;
    if (length > PARTS_MAX - p->length)
        return; /* what is left does not fit together, and the call is refused */
    p->data = realloc(p->data, p->length + length + 1);
    if (p->data == NULL)
        abort();
    memcpy(p->data + p->length, data, length);
    p->length += length;
}

static void on_call(server *s, hub_frame *frame, unsigned char *data, const method *methods,
                    size_t count)
{
    call c = {.server = s, .asked = frame->message, .slot = frame->slot, .data = data,
              .length = frame->length};
    parts **whole = find_parts(s, c.asked.message_id);
    if (c.asked.flags & PARTS) {
        add_part(whole, c.asked.message_id, data, frame->length);
        c.data = (*whole)->data;
        c.length = (*whole)->length;
    }
    if (c.asked.method < count)
        execute(&c, &methods[c.asked.method]);
    else
        fail(&c, "missing", "", "there is no method of that number");
    frame->slot = c.slot; /* none, when it was sent back */
    drop_parts(whole);
}

/* False: the host says goodbye. */
static bool on_message(server *s, hub_frame *frame, const method *methods, size_t count)
{
    unsigned char *data = frame->slot.data != NULL ? frame->slot.data : frame->inline_data;
    uint64_t call_id = frame->message.message_id & ~ABOUT;
    switch (frame->message.channel) {
    case CALL:
    case NOTIFY:
        on_call(s, frame, data, methods, count);
        break;
    case PART:
        if (frame->message.flags & FIRST)
            drop_parts(find_parts(s, call_id));
        add_part(find_parts(s, call_id), call_id, data, frame->length);
        break;
    case CANCEL: /* too late for all but what has not come wholly: one call runs at a time */
        drop_parts(find_parts(s, call_id));
        break;
    case PING:
        post(s, PONG, frame->message.message_id, "N", 1);
        break;
    case BYE:
        return false;
    default: /* WELCOME, which lists callbacks */
        break;
    }
    return true;
}

static const char *option(int argc, char **argv, const char *name)
{
    size_t length = strlen(name);
    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], name, length) == 0 && argv[i][length] == '=')
            return argv[i] + length + 1;
    fprintf(stderr, "%s: no %s: a host starts this program, with host.spawn([...], "
                    "codec=\"plain\")\n", argv[0], name);
    exit(2);
}

int serve(int argc, char **argv, const method *methods, size_t count)
{
    server s = {0};
    hub_fault fault = {0, ""};
    hub_frame frame;
    const char *path = option(argc, argv, "--hub-path");
    uint32_t id = (uint32_t)strtoul(option(argc, argv, "--peer-id"), NULL, 10);
    int doorbell = (int)strtol(option(argc, argv, "--doorbell-fd"), NULL, 10);
    int rc = hub_peer_open(path, id, &s.session, &fault);
    if (rc == 0)
        rc = hub_peer_register(s.session, &fault);
    if (rc == 0)
        rc = hub_transport_open_peer(s.session, doorbell, "c_plugin", HUB_FOREVER, &s.transport,
                                     &fault);
    if (rc == 0) {
        say_hello(&s, methods, count);
        bool more = true;
        while (more && rc == 0 && s.failed == 0) {
            rc = hub_recv(s.transport, &frame, HUB_FOREVER);
            if (rc == 0) {
                more = on_message(&s, &frame, methods, count);
                if (frame.slot.data != NULL)
                    hub_slot_free(s.session, &frame.slot);
            } else if (rc == HUB_EINTR) {
                rc = 0;
            }
        }
        rc = rc != 0 ? rc : s.failed;
        if (rc == HUB_EHOSTGONE)
            rc = 0; /* the usual end of a plugin */
    }
    if (rc != 0)
        fprintf(stderr, "%s: %s %s\n", argv[0], hub_strerror(rc), fault.text);
    while (s.parts != NULL)
        drop_parts(&s.parts);
    if (s.transport != NULL) {
        hub_transport_close(s.transport);
        hub_transport_unref(s.transport);
    }
    if (s.session != NULL) {
        hub_session_close(s.session);
        hub_session_unref(s.session);
    }
    return rc == 0 ? 0 : 1;
}
