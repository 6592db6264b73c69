/* A PKCS#11 module that forgets everything in a forked child, as hardware modules do and SoftHSM does not: every call of
 * another process than the one that initialised it is answered with CKR_CRYPTOKI_NOT_INITIALIZED. Everything else is done
 * by the module that TASKSEAL_REAL_MODULE names. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long rv;
/* No function of PKCS#11 2.40 takes more than eight arguments, all of them integers or pointers. */
typedef rv (*function)(long, long, long, long, long, long, long, long);

#define COUNT 68
#define NOT_INITIALIZED 0x190UL
#define GENERAL_ERROR 5UL

struct list {
    unsigned char version[2];
    function functions[COUNT];
};

static struct list *real;
static struct list ours;
static pid_t owner;

static rv load(void) {
    void *library;
    rv (*get)(struct list **);
    const char *path = getenv("TASKSEAL_REAL_MODULE");
    if (real) return 0;
    library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library) return GENERAL_ERROR;
    *(void **)&get = dlsym(library, "C_GetFunctionList");
    return get ? get(&real) : GENERAL_ERROR;
}

#define WRAP(n)                                                                                                \
    static rv call_##n(long a, long b, long c, long d, long e, long f, long g, long h) {                       \
        return getpid() == owner ? real->functions[n](a, b, c, d, e, f, g, h) : NOT_INITIALIZED;               \
    }
#define TEN(x)                                                                                                 \
    WRAP(x##0) WRAP(x##1) WRAP(x##2) WRAP(x##3) WRAP(x##4) WRAP(x##5) WRAP(x##6) WRAP(x##7) WRAP(x##8) WRAP(x##9)
WRAP(1) WRAP(2) WRAP(4) WRAP(5) WRAP(6) WRAP(7) WRAP(8) WRAP(9)
TEN(1) TEN(2) TEN(3) TEN(4) TEN(5)
WRAP(60) WRAP(61) WRAP(62) WRAP(63) WRAP(64) WRAP(65) WRAP(66) WRAP(67)

static rv initialize(long arguments, long b, long c, long d, long e, long f, long g, long h) {
    rv result;
    if (owner && owner != getpid()) real->functions[1](0, 0, 0, 0, 0, 0, 0, 0);
    result = real->functions[0](arguments, b, c, d, e, f, g, h);
    if (result == 0) owner = getpid();
    return result;
}

rv C_GetFunctionList(struct list **out) {
    rv result = load();
    if (result) return result;
    memcpy(ours.version, real->version, sizeof ours.version);
#define SET(n) ours.functions[n] = call_##n;
#define SET_TEN(x) SET(x##0) SET(x##1) SET(x##2) SET(x##3) SET(x##4) SET(x##5) SET(x##6) SET(x##7) SET(x##8) SET(x##9)
    SET(1) SET(2) SET(4) SET(5) SET(6) SET(7) SET(8) SET(9)
    SET_TEN(1) SET_TEN(2) SET_TEN(3) SET_TEN(4) SET_TEN(5)
    SET(60) SET(61) SET(62) SET(63) SET(64) SET(65) SET(66) SET(67)
    ours.functions[0] = initialize;
    ours.functions[3] = (function)(void *)C_GetFunctionList;
    *out = &ours;
    return 0;
}
