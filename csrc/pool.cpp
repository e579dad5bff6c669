#include "pool.h"

#include <algorithm>
#include <stdexcept>

#include "platform.h"

namespace abaci {
namespace {

constexpr uint32_t kRunMask = (1 << 24) - 1;
// How often to look before giving the processor away: within a run about 50 us, between runs about the same.
constexpr int kSpins = 1500;

void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int num_threads, std::vector<int> processors, void (*prepare)())
    : num_threads_(num_threads),
      processors_(std::move(processors)),
      prepare_(prepare),
      process_id_(process_id()),
      slots_(new Slot[kMaxPhases]),
      tickets_(num_threads < 1 ? nullptr : new std::atomic<uint64_t>[size_t{kMaxPhases} * num_threads]()) {
    if (num_threads < 1) throw std::invalid_argument("a thread pool needs at least one thread");
    try {
        for (int worker = 1; worker < num_threads; ++worker) threads_.emplace_back([this, worker] { work(worker); });
    } catch (...) {  // the system has no more threads for this process
        stop();
        throw;
    }
}

ThreadPool::~ThreadPool() {
    if (is_own_process()) {
        stop();
    } else {
        // A forked child has the objects of its parent's threads, but not the threads. Their identities may by now be
        // those of threads of the child's own, so they are neither joined nor detached, but left alone.
        new std::vector<std::thread>(std::move(threads_));
    }
}

bool ThreadPool::is_own_process() const {
    return process_id_ == process_id();
}

void ThreadPool::stop() {
    stopping_ = true;
    wake_.fetch_add(1);
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run(const std::vector<Phase>& phases) {
    // In a forked child the threads are missing, and who held the lock may be.
    if (!is_own_process()) throw std::invalid_argument("a thread pool cannot be used in a forked child");
    const std::lock_guard<std::mutex> lock(one_run_);
    const KernelFloatModes modes(prepare_);
    for (size_t begin = 0; begin < phases.size(); begin += kMaxPhases)
        run_part(std::span(phases).subspan(begin, std::min(kMaxPhases, phases.size() - begin)));
}

void ThreadPool::run_part(std::span<const Phase> phases) {
    const uint32_t run = ++run_number_ & kRunMask;
    for (size_t i = 0; i < phases.size(); ++i) {
        Slot& slot = slots_[i];
        slot.run = phases[i].run;
        slot.context = phases[i].context;
        const uint64_t num_pieces = phases[i].num_pieces;
        slot.done.store(uint64_t{run} << 40 | num_pieces << 20, std::memory_order_relaxed);
        for (int share = 0; share < num_threads_; ++share) {
            const uint64_t begin = num_pieces * share / num_threads_, end = num_pieces * (share + 1) / num_threads_;
            tickets_[i * num_threads_ + share].store(uint64_t{run} << 40 | end << 20 | begin,
                                                     std::memory_order_release);
        }
    }
    published_.store(uint64_t{run} << 32 | phases.size(), std::memory_order_release);
    wake_.fetch_add(1);
    if (num_sleepers_.load() > 0) wake_.notify_all();
    walk(run, static_cast<uint32_t>(phases.size()), 0);
}

void ThreadPool::walk(uint32_t run, uint32_t num_phases, int worker) {
    for (uint32_t i = 0; i < num_phases; ++i) {
        if (!take_pieces(run, i, worker)) return;
        for (int spins = 0;; ++spins) {
            const uint64_t done = slots_[i].done.load(std::memory_order_acquire);
            if (done >> 40 != run) return;
            if ((done & kMaxPieces) >= (done >> 20 & kMaxPieces)) break;
            if (spins < kSpins) {
                relax();
            } else {
                std::this_thread::yield();
            }
        }
    }
}

bool ThreadPool::take_pieces(uint32_t run, uint32_t phase, int worker) {
    Slot& slot = slots_[phase];
    for (int turn = 0; turn < num_threads_; ++turn) {
        std::atomic<uint64_t>& share = tickets_[size_t{phase} * num_threads_ + (worker + turn) % num_threads_];
        uint64_t ticket = share.load(std::memory_order_acquire);
        for (;;) {
            if (ticket >> 40 != run) return false;
            const uint32_t next = ticket & kMaxPieces;
            if (next >= (ticket >> 20 & kMaxPieces)) break;
            if (!share.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel, std::memory_order_acquire))
                continue;
            slot.run(slot.context, next, worker);
            slot.done.fetch_add(1, std::memory_order_release);
            ticket = share.load(std::memory_order_acquire);
        }
    }
    return true;
}

void ThreadPool::work(int worker) {
    if (worker < static_cast<int>(processors_.size())) pin_current_thread(processors_[worker]);
    prepare_();
    uint32_t seen = 0;
    for (;;) {
        uint32_t now = wake_.load();
        for (int spins = 0; now == seen && spins < kSpins; ++spins) {
            relax();
            now = wake_.load(std::memory_order_acquire);
        }
        if (now == seen) {
            num_sleepers_.fetch_add(1);
            wake_.wait(seen);
            num_sleepers_.fetch_sub(1);
            now = wake_.load();
        }
        seen = now;
        if (stopping_) return;
        const uint64_t published = published_.load(std::memory_order_acquire);
        walk(published >> 32, published & 0xFFFFFFFF, worker);
    }
}

}  // namespace abaci
