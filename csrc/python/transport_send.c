/* transport_send.c - sending one payload: bytes are copied, a Slot is moved, a
 * Frame is passed on.
 *
 * Whatever fails or interrupts a send, nothing was published and the payload is
 * still the caller's. */
#include "transport.h"
#include "wait.h"

#include <string.h>

/* ---- arguments ----------------------------------------------------------- */
#define CHANNEL_MAX 0xFEFF    /* the ones above are shmhub's */
#define FLAGS_MAX 0x00FFFFFFu /* so are the upper 8 bits */

static int parse_label(PyObject *value, const char *name, uint64_t max, uint16_t *ret)
{
    uint64_t number;
    if (value == NULL)
        return 0;
    if (bnd_arg_unsigned(value, name, max, &number) < 0)
        return -1;
    *ret = (uint16_t)number;
    return 0;
}

static int parse_flags(PyObject *value, uint32_t *ret)
{
    uint64_t number;
    if (value == NULL)
        return 0;
    if (bnd_arg_unsigned(value, "flags", FLAGS_MAX, &number) < 0)
        return -1;
    *ret = (uint32_t)number;
    return 0;
}

static int parse_message_id(PyObject *value, hub_send_request *ret)
{
    if (value == NULL || value == Py_None)
        return 0;
    ret->given |= 1u << HUB_NAME_MESSAGE_ID;
    return bnd_arg_unsigned(value, "message_id", UINT64_MAX, &ret->message.message_id);
}

/* values: by enum hub_name, NULL where not given. */
static int parse_values(TransportObject *self, const char *function, PyObject *const *values,
                        hub_send_request *ret)
{
    if (bnd_transport_target(self, values[HUB_NAME_TO], function, &ret->to) < 0 ||
        parse_label(values[HUB_NAME_CHANNEL], "channel", CHANNEL_MAX, &ret->message.channel) < 0 ||
        parse_label(values[HUB_NAME_METHOD], "method", UINT16_MAX, &ret->message.method) < 0 ||
        parse_flags(values[HUB_NAME_FLAGS], &ret->message.flags) < 0 ||
        parse_message_id(values[HUB_NAME_MESSAGE_ID], ret) < 0 ||
        bnd_arg_deadline(values[HUB_NAME_DEADLINE], &ret->message.deadline_ns) < 0 ||
        bnd_arg_timeout(values[HUB_NAME_TIMEOUT], &ret->timeout_ns) < 0)
        return -1;
    for (int name = HUB_NAME_CHANNEL; name <= HUB_NAME_DEADLINE; name++)
        if (name != HUB_NAME_MESSAGE_ID && values[name] != NULL)
            ret->given |= 1u << name;
    return 0;
}

int bnd_send_request_parse(TransportObject *self, const hub_args_spec *spec, PyObject *const *args,
                           Py_ssize_t nargs, PyObject *kwnames, hub_send_request *ret)
{
    memset(ret, 0, sizeof *ret);
    ret->to = HUB_TO_DEFAULT;
    ret->timeout_ns = HUB_TIMEOUT_NONE;
    if (kwnames == NULL && self->kind != HUB_KIND_ALL_PEERS)
        return 0;
    PyObject *found[HUB_ARGS_MAX];
    PyObject *values[HUB_NAME_COUNT] = {NULL};
    if (kwnames != NULL) {
        if (bnd_args_unpack(self->state, spec, args + nargs, 0, kwnames, found) < 0)
            return -1;
        for (int i = 0; i < spec->count; i++)
            values[spec->names[i]] = found[i];
    }
    return parse_values(self, spec->function, values, ret);
}

/* ---- handing over -------------------------------------------------------- */
/* A payload as the core takes it: bytes to be copied, or a slot to be moved. */
typedef struct parcel {
    const void *data;
    uint64_t length;
    const hub_slot *slot;
} parcel;

static inline int hand_over(TransportObject *self, const hub_send_request *request,
                            const parcel *parcel, int64_t deadline)
{
    if (parcel->slot != NULL)
        return hub_send_slot(self->transport, request->to, &request->message, parcel->slot,
                             parcel->length, deadline);
    return hub_send(self->transport, request->to, &request->message, parcel->data, parcel->length,
                    deadline);
}

static int raise_send(TransportObject *self, int code, const char *tried, uint32_t to,
                      uint64_t length)
{
    if (code == HUB_EPEERGONE || code == HUB_EHOSTGONE)
        bnd_transport_raise(self, code, tried, to);
    else
        bnd_raise(self->state, code, NULL, "%s() of %llu bytes on transport '%U'", tried,
                  (unsigned long long)length, self->name);
    return -1;
}

int bnd_send_request_bind(TransportObject *self, hub_send_request *request)
{
    if (self->kind != HUB_KIND_ALL_PEERS)
        return 0; /* bound to one life as it is */
    uint32_t epoch = hub_transport_epoch(self->transport, request->to);
    if (request->epoch == 0)
        request->epoch = epoch;
    return request->epoch == epoch ? 0 : HUB_EPEERGONE;
}

/* A failure may be that a signal handler has raised: its exception is set then. */
static int wait_to_hand_over(TransportObject *self, hub_send_request *request,
                             const parcel *parcel, int64_t deadline)
{
    bnd_wait wait = bnd_wait_begin(deadline);
    int rc;
    do {
        rc = bnd_send_request_bind(self, request);
        if (rc < 0)
            break;
        Py_BEGIN_ALLOW_THREADS
        rc = hand_over(self, request, parcel, bnd_wait_next(&wait));
        Py_END_ALLOW_THREADS
    } while (bnd_wait_again(&wait, rc));
    return rc;
}

/* After `code` (ring full, or no slot): arm for that, and try again. 1: armed. */
static int arm_to_hand_over(TransportObject *self, const hub_send_request *request,
                            const parcel *parcel, int code)
{
    while (code == HUB_ERINGFULL || code == HUB_EEXHAUSTED) {
        enum hub_armed who = code == HUB_ERINGFULL ? HUB_ARMED_SEND : HUB_ARMED_SEND_ALLOC;
        int rc = bnd_transport_arm(self, who, request->to, parcel->length);
        if (rc < 0)
            return rc;
        int again = hand_over(self, request, parcel, HUB_NOW);
        if (again == code)
            return 1;
        code = again; /* sent, failed, or now it is the other one that lacks */
    }
    return code;
}

/* A poll that did not end in waiting. Others who wait for the same look again, as
 * hub_poll_cancel makes the descriptor readable. */
static void end_poll(TransportObject *self)
{
    if (self->armed & (HUB_ARMED_SEND | HUB_ARMED_SEND_ALLOC))
        bnd_transport_disarm(self, HUB_ARMED_SEND | HUB_ARMED_SEND_ALLOC);
}

static int give_to_core(TransportObject *self, hub_send_request *request, const parcel *parcel,
                        enum hub_wait_mode mode, const char *tried)
{
    int rc = hand_over(self, request, parcel, HUB_NOW);
    if (rc == HUB_ERINGFULL || rc == HUB_EEXHAUSTED) {
        if (mode == HUB_POLL)
            rc = arm_to_hand_over(self, request, parcel, rc);
        else if (mode == HUB_WAIT)
            rc = request->timeout_ns == 0
                     ? HUB_ETIMEDOUT
                     : wait_to_hand_over(self, request, parcel, bnd_send_request_deadline(request));
        if (rc == 1)
            return 1;
    }
    if (mode == HUB_POLL)
        end_poll(self);
    return rc < 0 ? raise_send(self, rc, tried, request->to, parcel->length) : 0;
}

int64_t bnd_send_request_deadline(hub_send_request *request)
{
    if (request->timeout_end == 0)
        request->timeout_end = bnd_arg_deadline_of(request->timeout_ns);
    return request->timeout_end;
}

/* ---- large copies: into a slot of our own first, without the GIL --------- */
static int copy_into_slot(TransportObject *self, uint32_t to, const parcel *parcel, hub_slot *ret)
{
    int rc;
    Py_BEGIN_ALLOW_THREADS
    rc = hub_alloc_to(self->transport, to, parcel->length, HUB_NOW, ret);
    if (rc >= 0)
        hub_copy(ret->data, parcel->data, parcel->length);
    Py_END_ALLOW_THREADS
    return rc;
}

/* 0 copied, 1 armed, HUB_E*. */
static int find_slot_and_copy(TransportObject *self, hub_send_request *request,
                              const parcel *parcel, enum hub_wait_mode mode, hub_slot *ret)
{
    int rc = copy_into_slot(self, request->to, parcel, ret);
    if (rc != HUB_EEXHAUSTED || mode == HUB_NOWAIT)
        return rc;
    if (mode == HUB_POLL) {
        rc = bnd_transport_arm(self, HUB_ARMED_SEND_ALLOC, request->to, parcel->length);
        if (rc < 0)
            return rc;
        rc = copy_into_slot(self, request->to, parcel, ret);
        return rc == HUB_EEXHAUSTED ? 1 : rc;
    }
    if (request->timeout_ns == 0)
        return HUB_ETIMEDOUT;
    rc = bnd_transport_wait_alloc_to(self, request->to, parcel->length,
                                     bnd_send_request_deadline(request), ret);
    if (rc < 0)
        return rc;
    Py_BEGIN_ALLOW_THREADS
    hub_copy(ret->data, parcel->data, parcel->length);
    Py_END_ALLOW_THREADS
    return 0;
}

static int give_large(TransportObject *self, hub_send_request *request, const parcel *parcel,
                      enum hub_wait_mode mode, const char *tried)
{
    hub_slot slot;
    int rc = bnd_send_request_bind(self, request);
    if (rc == 0)
        rc = find_slot_and_copy(self, request, parcel, mode, &slot);
    if (rc == 0) {
        rc = bnd_send_request_bind(self, request);
        if (rc < 0)
            hub_slot_free(self->session, &slot);
    }
    if (rc < 0) {
        if (mode == HUB_POLL)
            end_poll(self);
        return raise_send(self, rc, tried, request->to, parcel->length);
    }
    if (rc > 0)
        return 1;
    const struct parcel moved = {NULL, parcel->length, &slot};
    rc = give_to_core(self, request, &moved, mode, tried);
    if (rc != 0)
        hub_slot_free(self->session, &slot); /* keeps the exception: Python is not asked */
    return rc;
}

static int give(TransportObject *self, hub_send_request *request, const parcel *parcel,
                enum hub_wait_mode mode, const char *tried)
{
    if (parcel->slot == NULL && parcel->length >= HUB_COPY_WITHOUT_GIL)
        return give_large(self, request, parcel, mode, tried);
    return give_to_core(self, request, parcel, mode, tried);
}

/* ---- payloads ------------------------------------------------------------ */
static void number_message(TransportObject *self, hub_send_request *request)
{
    if (!(request->given & (1u << HUB_NAME_MESSAGE_ID)))
        request->message.message_id = hub_transport_next_id(self->transport);
}

static int send_slot(TransportObject *self, SlotObject *slot, hub_send_request *request,
                     enum hub_wait_mode mode, const char *tried)
{
    if (slot->session != NULL && slot->session != self->session) {
        PyErr_Format(PyExc_ValueError, "%s() on transport '%U': the slot is another hub's: send a "
                                       "copy, bytes(slot)",
                     tried, self->name);
        return -1;
    }
    if (bnd_slot_object_claim(slot) < 0)
        return -1;
    const parcel parcel = {NULL, slot->size, &slot->slot};
    number_message(self, request);
    int rc = give(self, request, &parcel, mode, tried);
    bnd_slot_object_settle(slot, rc == 0);
    return rc;
}

/* What the caller did not say stays as it was received. */
static void keep_fields(const hub_message *received, hub_send_request *request)
{
    unsigned given = request->given;
    if (!(given & (1u << HUB_NAME_CHANNEL)))
        request->message.channel = received->channel;
    if (!(given & (1u << HUB_NAME_METHOD)))
        request->message.method = received->method;
    if (!(given & (1u << HUB_NAME_FLAGS)))
        request->message.flags = received->flags;
    if (!(given & (1u << HUB_NAME_DEADLINE)))
        request->message.deadline_ns = received->deadline_ns;
    if (!(given & (1u << HUB_NAME_MESSAGE_ID)))
        request->message.message_id = received->message_id;
}

static int send_frame(TransportObject *self, FrameObject *frame, hub_send_request *request,
                      enum hub_wait_mode mode, const char *tried)
{
    int claim = bnd_frame_object_claim(frame, self->session);
    if (claim < 0)
        return -1;
    const parcel parcel = {bnd_frame_object_data(frame), frame->frame.length,
                           claim ? &frame->frame.slot : NULL};
    keep_fields(&frame->frame.message, request);
    int rc = give(self, request, &parcel, mode, tried);
    bnd_frame_object_settle(frame, claim, rc == 0);
    return rc;
}

int bnd_send_payload(TransportObject *self, PyObject *payload, hub_send_request *request,
                     enum hub_wait_mode mode, const char *tried)
{
    if (PyBytes_CheckExact(payload)) {
        const parcel parcel = {PyBytes_AS_STRING(payload), (uint64_t)PyBytes_GET_SIZE(payload),
                               NULL};
        number_message(self, request);
        return give(self, request, &parcel, mode, tried);
    }
    if (Py_IS_TYPE(payload, self->state->slot_type))
        return send_slot(self, (SlotObject *)payload, request, mode, tried);
    if (Py_IS_TYPE(payload, self->state->frame_type))
        return send_frame(self, (FrameObject *)payload, request, mode, tried);
    Py_buffer buffer;
    if (bnd_arg_buffer(payload, tried, &buffer) < 0)
        return -1;
    const parcel parcel = {buffer.buf, (uint64_t)buffer.len, NULL};
    number_message(self, request);
    int rc = give(self, request, &parcel, mode, tried);
    PyBuffer_Release(&buffer);
    return rc;
}

/* ---- methods ------------------------------------------------------------- */
static PyObject *send_one(TransportObject *self, const hub_args_spec *spec, PyObject *const *args,
                          Py_ssize_t nargs, PyObject *kwnames, enum hub_wait_mode mode)
{
    static const parcel nothing = {"", 0, NULL};
    hub_send_request request;
    if (nargs > 1)
        return PyErr_Format(PyExc_TypeError, "%s() takes one payload, %zd were given",
                            spec->function, nargs);
    if (bnd_send_request_parse(self, spec, args, nargs, kwnames, &request) < 0)
        return NULL;
    if (bnd_transport_enter(self, spec->function) < 0)
        return NULL;
    int rc;
    if (nargs == 1) {
        rc = bnd_send_payload(self, args[0], &request, mode, spec->function);
    } else {
        number_message(self, &request);
        rc = give(self, &request, &nothing, mode, spec->function);
    }
    bnd_transport_leave(self);
    if (rc == 0)
        return PyLong_FromUnsignedLongLong(request.message.message_id);
    if (rc < 0)
        return NULL;
    Py_RETURN_NONE;
}

#define SEND_NAMES                                                                                 \
    HUB_NAME_TO, HUB_NAME_CHANNEL, HUB_NAME_METHOD, HUB_NAME_FLAGS, HUB_NAME_MESSAGE_ID,           \
        HUB_NAME_DEADLINE

PyObject *bnd_transport_send(TransportObject *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    static const hub_args_spec spec = {"send", 7, 0, 0, {SEND_NAMES, HUB_NAME_TIMEOUT}};
    return send_one(self, &spec, args, nargs, kwnames, HUB_WAIT);
}

PyObject *bnd_transport_send_nowait(TransportObject *self, PyObject *const *args, Py_ssize_t nargs,
                                    PyObject *kwnames)
{
    static const hub_args_spec spec = {"send_nowait", 6, 0, 0, {SEND_NAMES}};
    return send_one(self, &spec, args, nargs, kwnames, HUB_NOWAIT);
}

PyObject *bnd_transport_poll_send(TransportObject *self, PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *kwnames)
{
    static const hub_args_spec spec = {"poll_send", 6, 0, 0, {SEND_NAMES}};
    return send_one(self, &spec, args, nargs, kwnames, HUB_POLL);
}
