// See grad_buffer.h. Blocks are mapped and unmapped directly; those that are kept pass from hand to hand by an atomic
// exchange, so that no lock can be held across a fork, and nothing here is destroyed at exit, where tensors may be freed last.
#include "grad_buffer.h"

#include <ATen/EmptyTensor.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>

#include <sys/mman.h>
#include <unistd.h>

namespace ls_loss::grad_buffer {
namespace {

constexpr size_t huge_page = size_t{2} << 20;
constexpr size_t small_unit = size_t{64} << 10;
// Below this size malloc keeps what it is given back; above, it may return it to the system, and every step faults it in again.
constexpr size_t smallest_block = size_t{256} << 10;
// One block of this size and more is kept, and a few smaller ones, as of a model with several losses.
constexpr size_t large_block = size_t{4} << 20;
// Of a block. MADV_FREE interrupts every core that runs the process, once for each huge page: up to a quarter of a step of two
// threads, were it given in each.
constexpr std::chrono::seconds between_advices{1};

// Lies in a page of its own before the data, so that the data's address alone leads to it: a storage whose context is its data
// is a plain one to torch, copy-on-write included.
struct Block {
    size_t bytes; // of data mapped
    std::chrono::steady_clock::time_point next_advice;

    static const size_t page;
    char *data() { return reinterpret_cast<char *>(this) + page; }
    static Block *of(void *data) { return reinterpret_cast<Block *>(static_cast<char *>(data) - page); }
};

const size_t Block::page = static_cast<size_t>(sysconf(_SC_PAGESIZE));

const bool keeping = [] {
    const char *setting = std::getenv("LS_LOSS_CACHE");
    return !setting || std::strcmp(setting, "0") != 0;
}();

void release(Block *block) {
    if (!block) return;
    munmap(block, Block::page + block->bytes);
}

// Blocks that wait for the next request; the newest are kept, which it will resemble. A block taken out is the taker's alone.
template <size_t count>
class Parked {
  public:
    void put(Block *block) {
        for (auto &slot : slots) {
            block = slot.exchange(block, std::memory_order_acq_rel); // the older ones move up
            if (!block) return;
        }
        release(block);
    }

    // At least half of the block must be used.
    Block *take(size_t bytes) {
        for (auto &slot : slots) {
            Block *block = slot.exchange(nullptr, std::memory_order_acq_rel);
            if (block && bytes <= block->bytes && block->bytes / 2 <= bytes) return block;
            if (block && !put_into(slot, block)) release(block);
        }
        return nullptr;
    }

    void clear() {
        for (auto &slot : slots) release(slot.exchange(nullptr, std::memory_order_acq_rel));
    }

    size_t bytes() {
        size_t sum = 0;
        for (auto &slot : slots) {
            Block *block = slot.exchange(nullptr, std::memory_order_acq_rel);
            if (!block) continue;
            sum += block->bytes;
            if (!put_into(slot, block)) release(block);
        }
        return sum;
    }

  private:
    static bool put_into(std::atomic<Block *> &slot, Block *block) {
        Block *none = nullptr;
        return slot.compare_exchange_strong(none, block, std::memory_order_acq_rel);
    }

    std::atomic<Block *> slots[count]{};
};

Parked<1> large;
Parked<4> small;
Parked<1> working; // in a place of its own: in the gradient's it would be taken for one

size_t unit_of(size_t bytes) { return bytes < large_block ? small_unit : huge_page; }

size_t rounded(size_t bytes) { return (bytes + unit_of(bytes) - 1) / unit_of(bytes) * unit_of(bytes); }

Block *take(size_t bytes) { return rounded(bytes) < large_block ? small.take(bytes) : large.take(bytes); }

void put(Block *block) {
    if (block->bytes < large_block)
        small.put(block);
    else
        large.put(block);
}

// Whole units of data, aligned to them: what the alignment costs in addresses is unmapped again.
Block *map(size_t bytes) {
    const size_t unit = unit_of(bytes), size = rounded(bytes);
    const size_t mapped = Block::page + size + unit;
    void *const address = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) return nullptr;
    char *const begin = static_cast<char *>(address), *const end = begin + mapped;
    const auto first = reinterpret_cast<uintptr_t>(begin) + Block::page;
    char *const data = begin + Block::page + (unit - first % unit) % unit;
    Block *const block = Block::of(data);
    if (reinterpret_cast<char *>(block) > begin) munmap(begin, reinterpret_cast<char *>(block) - begin);
    if (end > data + size) munmap(data + size, end - (data + size));
    madvise(data, size, MADV_HUGEPAGE); // an advice: a system without huge pages does without
    block->bytes = size;
    block->next_advice = {};
    return block;
}

// The system may have the pages back when it needs them; until then they can be written without a fault.
void offer_pages(Block *block) {
    const auto now = std::chrono::steady_clock::now();
    if (now < block->next_advice) return;
    madvise(block->data(), block->bytes, MADV_FREE);
    block->next_advice = now + between_advices;
}

void free_data(void *data) {
    if (!data) return;
    Block *const block = Block::of(data);
    c10::profiledCPUMemoryReporter().Delete(data);
    if (!keeping) return release(block);
    if (block->bytes >= large_block) offer_pages(block);
    put(block);
}

void free_scratch(void *data) {
    Block *const block = Block::of(data);
    if (!keeping) return release(block);
    offer_pages(block);
    working.put(block);
}

class Allocator final : public c10::Allocator {
  public:
    c10::DataPtr allocate(size_t bytes) override {
        // Small requests reach this allocator when a gradient's storage is resized.
        if (bytes < smallest_block) return c10::GetCPUAllocator()->allocate(bytes);
        Block *block = take(bytes);
        if (!block) block = map(bytes);
        if (!block) {
            empty_cache();
            return c10::GetCPUAllocator()->allocate(bytes); // or its error
        }
        c10::profiledCPUMemoryReporter().New(block->data(), bytes);
        return {block->data(), block->data(), free_data, c10::Device(c10::DeviceType::CPU)};
    }

    void copy_data(void *destination, const void *source, size_t count) const override {
        default_copy_data(destination, source, count);
    }
};

} // namespace

at::Tensor empty(at::IntArrayRef sizes, at::ScalarType dtype) {
    if (at::detail::computeStorageNbytesContiguous(sizes, c10::elementSize(dtype)) < smallest_block)
        return at::detail::empty_cpu(sizes, dtype);
    static Allocator *const allocator = new Allocator;
    return at::detail::empty_generic(sizes, allocator, c10::DispatchKeySet(c10::DispatchKey::CPU), dtype, std::nullopt);
}

c10::DataPtr scratch(size_t bytes) {
    if (bytes < large_block) return c10::GetCPUAllocator()->allocate(bytes);
    Block *block = working.take(bytes);
    if (!block) block = map(bytes);
    if (!block) {
        empty_cache();
        return c10::GetCPUAllocator()->allocate(bytes);
    }
    return {block->data(), block->data(), free_scratch, c10::Device(c10::DeviceType::CPU)};
}

void empty_cache() {
    large.clear();
    small.clear();
    working.clear();
}

bool keeps_blocks() { return keeping; }

size_t kept_bytes() { return large.bytes() + small.bytes() + working.bytes(); }

} // namespace ls_loss::grad_buffer
