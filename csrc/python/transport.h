/* transport.h - what the files of _core.Transport share. */
#ifndef HUB_PYTHON_TRANSPORT_H
#define HUB_PYTHON_TRANSPORT_H

#include "args.h"

/* How long a call may take. */
enum hub_wait_mode {
    HUB_WAIT,   /* until its timeout */
    HUB_LOOK,   /* the same; a signal or an interrupt counts as the end of the time */
    HUB_NOWAIT, /* not at all */
    HUB_POLL    /* not at all, but leave the descriptor armed */
};

typedef PyObject *(*hub_fastcall)(TransportObject *, PyObject *const *, Py_ssize_t, PyObject *);

/* transport.c */
/* Begin a call: 0, or -1 with an exception when it was never opened or is closed. Until
 * bnd_transport_leave, self->transport and self->session stay, whoever closes meanwhile. */
int bnd_transport_enter(TransportObject *self, const char *tried);
void bnd_transport_let_go(TransportObject *self);
/* What bnd_transport_enter does once it has looked. The owner's count tells its fsck whether a
 * thread may be in the pool. */
static inline void bnd_transport_go_in(TransportObject *self)
{
    bnd_users_enter(&self->users);
#ifndef Py_GIL_DISABLED
    ((SessionObject *)self->owner)->transport_calls++;
#endif
}
static inline void bnd_transport_leave(TransportObject *self)
{
#ifndef Py_GIL_DISABLED
    ((SessionObject *)self->owner)->transport_calls--;
#endif
    if (bnd_users_leave(&self->users))
        bnd_transport_let_go(self);
}
/* Raise for a failed call: `tried` is the method's name. NULL. */
PyObject *bnd_transport_raise(TransportObject *self, int code, const char *tried, uint32_t to);
/* `to=` as the core wants it; -1 with an exception. value may be NULL. */
int bnd_transport_target(TransportObject *self, PyObject *value, const char *tried, uint32_t *ret);

/* transport_gone.c: the other side's end. */
PyObject *bnd_transport_raise_gone(TransportObject *self, const char *tried, uint32_t to);
/* A receive met HUB_EPEERGONE. 0: told the callback, go on receiving; -1: raised. */
int bnd_transport_tell_gone(TransportObject *self, const char *tried);
PyObject *bnd_transport_pop_gone(TransportObject *self, PyObject *unused);
PyObject *bnd_transport_set_on_gone(TransportObject *self, PyObject *callable);

/* transport_alloc.c */
/* Who of an event loop waits for what. */
enum hub_armed {
    HUB_ARMED_SEND = 1,      /* poll_send, for room in the ring */
    HUB_ARMED_SEND_ALLOC = 2,/* poll_send, for a slot */
    HUB_ARMED_ALLOC = 4      /* poll_alloc */
};
int bnd_transport_arm(TransportObject *self, enum hub_armed who, uint32_t to, uint64_t length);
void bnd_transport_disarm(TransportObject *self, unsigned who);
/* Wait without the GIL. A failure may be that a signal handler has raised: its exception is set. */
int bnd_transport_wait_alloc_to(TransportObject *self, uint32_t to, uint64_t size,
                                int64_t deadline, hub_slot *ret);
/* A Slot for a message to that peer; timeout_ns as in args.h. */
PyObject *bnd_transport_alloc_slot_to(TransportObject *self, uint32_t to, uint64_t size,
                                      int64_t timeout_ns, const char *tried);
PyObject *bnd_transport_alloc(TransportObject *, PyObject *const *, Py_ssize_t, PyObject *);
PyObject *bnd_transport_alloc_nowait(TransportObject *, PyObject *const *, Py_ssize_t, PyObject *);
PyObject *bnd_transport_poll_alloc(TransportObject *self, PyObject *nbytes);
PyObject *bnd_transport_poll_cancel(TransportObject *self, PyObject *kind);

/* transport_send.c */
/* Keyword arguments of the send family, as they came. */
typedef struct hub_send_request {
    hub_message message;
    uint32_t to;
    uint32_t epoch; /* of `to`, once it is asked for: bnd_send_request_bind */
    int64_t timeout_ns;
    int64_t timeout_end; /* the moment, once it is asked for: bnd_send_request_deadline */
    unsigned given; /* 1 << enum hub_name, for what a forwarded frame does not keep */
} hub_send_request;
/* Does not need the transport to be open. */
int bnd_send_request_parse(TransportObject *self, const hub_args_spec *spec, PyObject *const *args,
                           Py_ssize_t nargs, PyObject *kwnames, hub_send_request *ret);
int64_t bnd_send_request_deadline(hub_send_request *request);
/* The first time: whoever has that id now is meant. Then HUB_EPEERGONE if it is another one: before
 * each step after one in which other Python code may have run. */
int bnd_send_request_bind(TransportObject *self, hub_send_request *request);
/* One payload of any kind. 0 sent (request->message.message_id says as what), 1 armed (HUB_POLL),
 * -1 exception. */
int bnd_send_payload(TransportObject *self, PyObject *payload, hub_send_request *request,
                     enum hub_wait_mode mode, const char *tried);
PyObject *bnd_transport_send(TransportObject *, PyObject *const *, Py_ssize_t, PyObject *);
PyObject *bnd_transport_send_nowait(TransportObject *, PyObject *const *, Py_ssize_t, PyObject *);
PyObject *bnd_transport_poll_send(TransportObject *, PyObject *const *, Py_ssize_t, PyObject *);

/* transport_send_many.c */
PyObject *bnd_transport_send_many(TransportObject *, PyObject *const *, Py_ssize_t, PyObject *);
PyObject *bnd_transport_send_many_nowait(TransportObject *, PyObject *const *, Py_ssize_t,
                                         PyObject *);

/* transport_rpc.c */
PyObject *bnd_transport_post(TransportObject *, PyObject *const *, Py_ssize_t);
PyObject *bnd_transport_post_quietly(TransportObject *, PyObject *const *, Py_ssize_t);
PyObject *bnd_transport_wake(TransportObject *, PyObject *);
PyObject *bnd_transport_collect(TransportObject *, PyObject *const *, Py_ssize_t);
PyObject *bnd_transport_collect_all(TransportObject *, PyObject *const *, Py_ssize_t);
PyObject *bnd_transport_alloc_to(TransportObject *, PyObject *const *, Py_ssize_t);
PyObject *bnd_transport_interrupt(TransportObject *self, PyObject *unused);
PyObject *bnd_transport_set_hold_limit(TransportObject *self, PyObject *limit);

/* transport_recv.c */
/* A new reference to a Frame; NULL with an exception, or without: nothing came. */
PyObject *bnd_transport_receive(TransportObject *self, enum hub_wait_mode mode,
                                int64_t timeout_ns, const char *tried);
/* The same as HUB_LOOK: with no exception also when the time was up, or one peer of several has ended:
 * then its PeerGoneError is in the inbox. Whatever a signal handler raises is raised. */
PyObject *bnd_transport_look(TransportObject *self, PyObject *inbox, int64_t timeout_ns,
                             const char *tried);
/* Append the frames that are there, until the list, made with room for max, has max. */
void bnd_transport_fill_list(TransportObject *self, PyObject *list, Py_ssize_t max);
PyObject *bnd_transport_recv(TransportObject *, PyObject *const *, Py_ssize_t, PyObject *);
PyObject *bnd_transport_recv_nowait(TransportObject *self, PyObject *unused);
PyObject *bnd_transport_poll_recv(TransportObject *self, PyObject *unused);
PyObject *bnd_transport_recv_many(TransportObject *, PyObject *const *, Py_ssize_t, PyObject *);
PyObject *bnd_transport_recv_many_nowait(TransportObject *, PyObject *const *, Py_ssize_t,
                                         PyObject *);
void bnd_transport_forget_spares(TransportObject *self);

#endif
