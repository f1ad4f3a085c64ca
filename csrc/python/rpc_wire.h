/* rpc_wire.h - the few words of RPC's protocol that C says itself. The whole of it is
 * shmhub/_rpc/_wire.py; a test compares. */
#ifndef HUB_PYTHON_RPC_WIRE_H
#define HUB_PYTHON_RPC_WIRE_H

#define HUB_RPC_CALL 0xFF10
#define HUB_RPC_RESULT 0xFF12
#define HUB_RPC_NOT_SIMPLE 0xFFu /* flags of which a simple message has none */
#define HUB_RPC_TREE_SHIFT 8
#define HUB_RPC_TREE_MASK 0xFFFFFFu
#define HUB_RPC_LIFE_SHIFT 40
#define HUB_RPC_LIFE_MASK ((UINT64_C(1) << 22) - 1)

#endif
