// What CUDA sources need to be compiled as C++ for the CPU: built-in variables, barriers, shuffles, 16-bit storage, and a launch.
//
// Shared memory begins as NaN in every block. The threads of a block are coroutines of one thread: each runs to its next barrier, then the next one does. With `backwards` the last
// thread begins, so that a result which depends on a barrier that is missing is another one. A launch answers 1 where the threads of
// a block do not all come to the same barrier, which on a GPU hangs or is undefined.

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __device__ static
#define __host__
#define __shared__ static __attribute__((section("emulated_shared")))
#define __restrict__ __restrict
#define __forceinline__ inline

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
static dim3 gridDim, blockDim, blockIdx, threadIdx;

// The linker puts them around the section, where there is one.
extern "C" __attribute__((weak, visibility("hidden"))) char __start_emulated_shared[], __stop_emulated_shared[];

namespace emulation {

constexpr size_t STACK = 64 << 10;
struct Thread {
    ucontext_t context;
    int waits_at;  // the line of its barrier, −1: ended
    double given;  // to whom shuffles with it
};
static Thread* threads;
static ucontext_t scheduler;
static void (*body)();

inline unsigned flat() { return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x; }

inline void wait(int line) {
    Thread& me = threads[flat()];
    me.waits_at = line;
    swapcontext(&me.context, &scheduler);
}

inline void whole() {
    body();
    threads[flat()].waits_at = -1;
    setcontext(&scheduler);
}

template <class V> V shuffled(V value, unsigned from, int line) {
    threads[flat()].given = value;
    wait(line);
    const V got = V(threads[from].given);
    wait(line);
    return got;
}

inline int run_block(bool backwards, char* stacks) {
    const unsigned size = blockDim.x * blockDim.y * blockDim.z;
    if (__start_emulated_shared) memset(__start_emulated_shared, 0xff, __stop_emulated_shared - __start_emulated_shared);
    for (unsigned i = 0; i < size; i++) {
        getcontext(&threads[i].context);
        threads[i].context.uc_stack.ss_sp = stacks + i * STACK;
        threads[i].context.uc_stack.ss_size = STACK;
        makecontext(&threads[i].context, whole, 0);
    }
    do {
        for (unsigned turn = 0; turn < size; turn++) {
            const unsigned i = backwards ? size - 1 - turn : turn;
            threadIdx = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
            swapcontext(&scheduler, &threads[i].context);
        }
        for (unsigned i = 1; i < size; i++)
            if (threads[i].waits_at != threads[0].waits_at) return 1;
    } while (threads[0].waits_at != -1);
    return 0;
}

inline int run_grid(bool backwards, char* stacks) {
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++)
                if (run_block(backwards, stacks)) return 1;
    return 0;
}

template <size_t... I> struct Numbers {};
template <size_t count, size_t... I> struct Counted : Counted<count - 1, count - 1, I...> {};
template <size_t... I> struct Counted<0, I...> {
    using Type = Numbers<I...>;
};

template <class... A> struct Call {
    static inline void (*kernel)(A...);
    static inline void** arguments;
    template <size_t... I> static void unpack(Numbers<I...>) { kernel(*static_cast<A*>(arguments[I])...); }
    static void run() { unpack(typename Counted<sizeof...(A)>::Type()); }
};

// `shape`: grid x, y, z, block x, y, z. `arguments`: the address of each, as cuLaunchKernel takes them.
template <class... A> int launch(void (*kernel)(A...), const unsigned* shape, int backwards, void** arguments) {
    Call<A...>::kernel = kernel;
    Call<A...>::arguments = arguments;
    body = Call<A...>::run;
    gridDim = {shape[0], shape[1], shape[2]};
    blockDim = {shape[3], shape[4], shape[5]};
    const unsigned size = blockDim.x * blockDim.y * blockDim.z;
    threads = static_cast<Thread*>(calloc(size, sizeof(Thread)));
    char* stacks = static_cast<char*>(malloc(size * STACK));
    const int apart = run_grid(backwards, stacks);
    free(stacks);
    free(threads);
    return apart;
}

}  // namespace emulation

#define __syncthreads() emulation::wait(__LINE__)
#define __shfl_xor_sync(mask, value, lane) emulation::shuffled(value, emulation::flat() ^ (lane), __LINE__)

// cuda_fp16.h and cuda_bf16.h are empty files here.
struct __half {
    _Float16 bits;
    __half() = default;
    explicit __half(float wide) : bits(static_cast<_Float16>(wide)) {}
    explicit operator float() const { return static_cast<float>(bits); }
};

struct __nv_bfloat16 {
    unsigned short bits;
    __nv_bfloat16() = default;
    explicit __nv_bfloat16(float wide) {
        unsigned all;
        __builtin_memcpy(&all, &wide, 4);
        bits = wide != wide ? 0x7fff : (all + 0x7fff + (all >> 16 & 1)) >> 16;
    }
    explicit operator float() const {
        const unsigned all = unsigned(bits) << 16;
        float wide;
        __builtin_memcpy(&wide, &all, 4);
        return wide;
    }
};
