// A pool of threads that walks through phases of work together.
//
// A phase is a number of pieces that may run in any order on any thread; a phase starts when every piece of the one
// before is done. Every worker has a share of consecutive pieces, so that it reads on where it stopped and what it has
// asked for ahead is what it reads next; who is done takes from the others' shares. Pieces are taken one by one, and
// nobody waits for a thread that holds none: a worker that the system keeps off its processor costs its share and no
// more. It may wake up long after its run has ended; every ticket carries the run's number, so that it finds nothing to
// take.
#pragma once

#include <atomic>
#include <cfenv>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

namespace abaci {

// The kernels' rounding and flush modes on this thread while it lives; then the caller's own again.
class KernelFloatModes {
  public:
    explicit KernelFloatModes(void (*prepare)()) {
        std::fegetenv(&callers_);
        prepare();
    }
    ~KernelFloatModes() { std::fesetenv(&callers_); }
    KernelFloatModes(const KernelFloatModes&) = delete;
    KernelFloatModes& operator=(const KernelFloatModes&) = delete;

  private:
    std::fenv_t callers_;
};

struct Phase {
    void (*run)(void* context, uint32_t piece, int worker);
    void* context;
    uint32_t num_pieces;
};

class ThreadPool {
  public:
    // The caller of run() is worker 0, so num_threads - 1 threads are started. `processors`: where to pin them, the
    // first being the caller's; empty: not pinned. `prepare` runs once on each thread. Throws std::system_error, and
    // leaves no thread behind, where the system refuses one.
    ThreadPool(int num_threads, std::vector<int> processors, void (*prepare)());
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int num_threads() const { return num_threads_; }
    const std::vector<int>& processors() const { return processors_; }

    // Runs all phases, in order; returns when the last piece is done. One run at a time, others wait their turn. Throws
    // std::invalid_argument in a forked child.
    void run(const std::vector<Phase>& phases);

    static constexpr uint32_t kMaxPieces = (1 << 20) - 1;

  private:
    struct alignas(64) Slot {
        std::atomic<uint64_t> done{0};  // run 24 bits | pieces 20 bits | pieces done 20 bits
        void (*run)(void*, uint32_t, int) = nullptr;
        void* context = nullptr;
    };

    static constexpr size_t kMaxPhases = 4096;  // of which there are slots; a run of more has several parts

    bool is_own_process() const;
    void stop();
    void run_part(std::span<const Phase> phases);
    void work(int worker);
    void walk(uint32_t run, uint32_t num_phases, int worker);
    // False if the run has ended.
    bool take_pieces(uint32_t run, uint32_t phase, int worker);

    const int num_threads_;
    const std::vector<int> processors_;
    void (*const prepare_)();
    const int process_id_;
    std::unique_ptr<Slot[]> slots_;  // of each phase
    // Of each phase, one for each worker's share: run 24 bits | end of the share 20 bits | next piece 20 bits.
    std::unique_ptr<std::atomic<uint64_t>[]> tickets_;
    std::mutex one_run_;
    uint32_t run_number_ = 0;
    alignas(64) std::atomic<uint64_t> published_{0};  // run 32 bits | phases 32 bits
    alignas(64) std::atomic<uint32_t> wake_{0};       // changes with every run; sleepers wait on it
    std::atomic<uint32_t> num_sleepers_{0};
    std::atomic<bool> stopping_{false};
    std::vector<std::thread> threads_;
};

}  // namespace abaci
