// See grad_buffer.h. Blocks are mapped and unmapped directly; the one that is kept passes from hand to hand by an atomic
// exchange, so that no lock can be held across a fork, and nothing here is destroyed at exit, where tensors may be freed last.
#include "grad_buffer.h"

#include <ATen/EmptyTensor.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include <sys/mman.h>
#include <unistd.h>

namespace ls_loss::grad_buffer {
namespace {

constexpr size_t huge_page = size_t{2} << 20;
// Below this size malloc's own reuse of memory is good enough, and blocks in steps of huge pages would be wasteful.
constexpr size_t smallest_block = size_t{4} << 20;

// Lies in a page of its own before the data, so that the data's address alone leads to it: a storage whose context is its data
// is a plain one to torch, copy-on-write included.
struct Block {
    size_t bytes; // of data mapped

    static const size_t page;
    char *data() { return reinterpret_cast<char *>(this) + page; }
    static Block *of(void *data) { return reinterpret_cast<Block *>(static_cast<char *>(data) - page); }
};

const size_t Block::page = static_cast<size_t>(sysconf(_SC_PAGESIZE));

std::atomic<Block *> kept{nullptr};
const bool keeping = [] {
    const char *setting = std::getenv("LS_LOSS_CACHE");
    return !setting || std::strcmp(setting, "0") != 0;
}();

void release(Block *block) {
    if (!block) return;
    munmap(block, Block::page + block->bytes);
}

// The newest block is kept: it is the one that the next request will resemble.
void keep(Block *block) { release(kept.exchange(block, std::memory_order_acq_rel)); }

// Puts back a block that did not serve, unless another thread has put a newer one.
void put_back(Block *block) {
    Block *none = nullptr;
    if (!kept.compare_exchange_strong(none, block, std::memory_order_acq_rel)) release(block);
}

Block *take_kept(size_t bytes) {
    Block *block = kept.exchange(nullptr, std::memory_order_acq_rel);
    if (!block || (bytes <= block->bytes && block->bytes / 2 <= bytes)) return block;
    put_back(block);
    return nullptr;
}

// Whole huge pages of data, aligned to them: what the alignment costs in addresses is unmapped again.
Block *map(size_t bytes) {
    const size_t size = (bytes + huge_page - 1) / huge_page * huge_page;
    const size_t mapped = Block::page + size + huge_page;
    void *const address = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) return nullptr;
    char *const begin = static_cast<char *>(address), *const end = begin + mapped;
    const auto first = reinterpret_cast<uintptr_t>(begin) + Block::page;
    char *const data = begin + Block::page + (huge_page - first % huge_page) % huge_page;
    Block *const block = Block::of(data);
    if (reinterpret_cast<char *>(block) > begin) munmap(begin, reinterpret_cast<char *>(block) - begin);
    if (end > data + size) munmap(data + size, end - (data + size));
    madvise(data, size, MADV_HUGEPAGE); // an advice: a system without huge pages does without
    block->bytes = size;
    return block;
}

void free_data(void *data) {
    if (!data) return;
    Block *const block = Block::of(data);
    c10::profiledCPUMemoryReporter().Delete(data);
    if (!keeping) return release(block);
    // The system may have the pages back when it needs them; until then they can be written without a fault.
    madvise(data, block->bytes, MADV_FREE);
    keep(block);
}

class Allocator final : public c10::Allocator {
  public:
    c10::DataPtr allocate(size_t bytes) override {
        // Small requests reach this allocator when a gradient's storage is resized.
        if (bytes < smallest_block) return c10::GetCPUAllocator()->allocate(bytes);
        Block *block = take_kept(bytes);
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

void empty_cache() { keep(nullptr); }

bool keeps_blocks() { return keeping; }

size_t kept_bytes() {
    Block *block = kept.exchange(nullptr, std::memory_order_acq_rel);
    if (!block) return 0;
    const size_t bytes = block->bytes;
    put_back(block);
    return bytes;
}

} // namespace ls_loss::grad_buffer
