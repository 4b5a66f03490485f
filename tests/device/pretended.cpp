// Two pretended CUDA devices in host memory, for a build of PyTorch without CUDA.
//
// Every operator under CUDA's key runs the CPU's kernel. Operands on different devices are refused, launches and
// host synchronizations counted, and memory and float64 can be limited. Nothing here says anything of CUDA's digits
// or speed.

// Of operators only those that are called: all of them take twice as long to compile.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/TensorOperators.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/TensorShape.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>

namespace {

using at::Tensor;
using Sizes = c10::SymIntArrayRef;

constexpr int kDevices = 2;
thread_local int current_device = 0;
// Operators that run inside the CPU's kernel are no launches of their own.
thread_local int nesting = 0;
std::atomic<int64_t> allocated[kDevices], peak[kDevices], limit_of[kDevices], launches, syncs;
bool has_float64 = true;

struct Nested {
  Nested() { nesting++; }
  ~Nested() { nesting--; }
};

void launch() {
  if (!nesting) launches++;
}

void synchronize() {
  if (!nesting) syncs++;
}

c10::Device device_of(std::optional<c10::Device> device) {
  if (device && device->has_index()) return *device;
  return {c10::kCUDA, static_cast<c10::DeviceIndex>(current_device)};
}

// Memory, in blocks of 512 bytes as CUDA's allocator hands them out.

struct Block {
  void* data;
  int64_t size;
  int device;
};

void free_block(void* context) {
  auto* block = static_cast<Block*>(context);
  std::free(block->data);
  allocated[block->device] -= block->size;
  delete block;
}

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    const int d = current_device;
    const c10::Device device(c10::kCUDA, d);
    if (size == 0) return {nullptr, nullptr, &free_block, device};
    const int64_t whole = (size + 511) / 512 * 512;
    TORCH_CHECK_WITH(OutOfMemoryError, !limit_of[d] || allocated[d] + whole <= limit_of[d],
                     "CUDA out of memory. Tried to allocate ", whole, " bytes.");
    void* data = std::aligned_alloc(512, whole);
    TORCH_CHECK(data, "The host has no memory left for the pretended device.");
    const int64_t now = allocated[d] += whole;
    if (now > peak[d]) peak[d] = now;
    return {data, new Block{data, whole, d}, &free_block, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t size) const override { std::memcpy(to, from, size); }
} allocator;

// Devices, streams and generators.

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::kCUDA; }
  c10::Device getDevice() const override { return device_of({}); }
  c10::Device exchangeDevice(c10::Device to) const override {
    const auto from = device_of({});
    current_device = to.index();
    return from;
  }
  void setDevice(c10::Device to) const override { current_device = to.index(); }
  void uncheckedSetDevice(c10::Device to) const noexcept override { current_device = to.index(); }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }
  c10::Stream getStream(c10::Device d) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, device_of(d));
  }
  c10::Stream getDefaultStream(c10::Device d) const override { return getStream(d); }
  c10::Stream getStreamFromGlobalPool(c10::Device d, bool) const override { return getStream(d); }
  c10::Stream exchangeStream(c10::Stream s) const noexcept override { return getStream(s.device()); }
  bool queryStream(const c10::Stream&) const override { return true; }
  bool queryEvent(void*) const override { return true; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  void synchronizeStream(const c10::Stream&) const override { syncs++; }
  void synchronizeEvent(void*) const override { syncs++; }
  void synchronizeDevice(const c10::DeviceIndex) const override { syncs++; }
};

// Draws what a generator of the CPU draws.
struct Generator final : c10::GeneratorImpl {
  at::Generator host;
  Generator(int d, uint64_t seed)
      : GeneratorImpl({c10::kCUDA, static_cast<c10::DeviceIndex>(d)}, c10::DispatchKeySet(c10::DispatchKey::CUDA)),
        host(at::detail::createCPUGenerator(seed)) {}
  void set_current_seed(uint64_t seed) override { host.set_current_seed(seed); }
  uint64_t current_seed() const override { return host.current_seed(); }
  uint64_t seed() override { return host.seed(); }
  void set_offset(uint64_t) override {}
  uint64_t get_offset() const override { return 0; }
  void set_state(const c10::TensorImpl& state) override { host.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return host.unsafeGetGeneratorImpl()->get_state(); }
  Generator* clone_impl() const override {
    auto* copy = new Generator(device().index(), 0);
    copy->host = host.clone();
    return copy;
  }
};

const at::Generator& default_generator(int d) {
  static const at::Generator made[kDevices] = {at::make_generator<Generator>(0, 11), at::make_generator<Generator>(1, 12)};
  return made[d < 0 ? current_device : d];
}

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kDevices; }
  int getNumGPUs() const override { return kDevices; }
  c10::DeviceIndex current_device() const override { return ::current_device; }
  c10::DeviceIndex getCurrentDevice() const override { return ::current_device; }
  void setCurrentDevice(c10::DeviceIndex d) const override { ::current_device = d; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex d) const override {
    const auto from = ::current_device;
    ::current_device = d;
    return from;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex d) const override { return exchangeDevice(d); }
  c10::Device getDeviceFromPtr(void*) const override { return device_of({}); }
  c10::Allocator* getCUDADeviceAllocator() const override { return &allocator; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(c10::kCPU); }
  void deviceSynchronize(c10::DeviceIndex) const override { syncs++; }
  long versionCuDNN() const override { return 0; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex d = -1) const override { return default_generator(d); }
  // Python asks for its ``torch.cuda.default_generators`` first, in order.
  at::Generator getNewGenerator(c10::DeviceIndex d = -1) const override {
    static int handed_out = 0;
    if (handed_out < kDevices) return default_generator(handed_out++);
    return at::make_generator<Generator>(d < 0 ? ::current_device : d, c10::default_rng_seed_val);
  }
};

// Tensors: made, copied, viewed and read.

void refuse_float64(std::optional<at::ScalarType> dtype) {
  TORCH_CHECK_TYPE(has_float64 || c10::dtype_or_default(dtype) != at::kDouble,
                   "Cannot convert a tensor to float64: the pretended device has no float64.");
}

Tensor empty(Sizes sizes, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device> device,
             std::optional<bool>, std::optional<at::MemoryFormat> format) {
  refuse_float64(dtype);
  c10::DeviceGuard guard(device_of(device));
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(sizes), &allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(Sizes sizes, Sizes strides, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                     std::optional<at::Device> device, std::optional<bool>) {
  refuse_float64(dtype);
  c10::DeviceGuard guard(device_of(device));
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(sizes), C10_AS_INTARRAYREF_SLOW(strides), &allocator,
                                           c10::DispatchKeySet(c10::DispatchKey::CUDA), c10::dtype_or_default(dtype));
}

// The same memory as a tensor of the CPU.
Tensor on_host(const Tensor& tensor) {
  if (!tensor.is_cuda()) return tensor;
  const auto options = tensor.options().device(c10::kCPU);
  if (tensor.numel() == 0) return at::empty_strided(tensor.sizes(), tensor.strides(), options);
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), options);
}

Tensor& copy_(Tensor& to, const Tensor& from, bool non_blocking) {
  if (to.numel() == 0) return to;
  launch();
  if (from.is_cuda() != to.is_cuda() && !non_blocking) synchronize();
  on_host(to).copy_(on_host(from.expand(to.sizes())));
  return to;
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool non_blocking) {
  Tensor target = to;
  return copy_(target, from, non_blocking);
}

const Tensor& resize_(const Tensor& self, Sizes sizes, std::optional<at::MemoryFormat>) {
  const auto shape = C10_AS_INTARRAYREF_SLOW(sizes);
  const size_t needed = (c10::multiply_integers(shape) + self.storage_offset()) * self.itemsize();
  auto storage = self.storage();
  if (needed > storage.nbytes()) {
    c10::DeviceGuard guard(self.device());
    auto data = allocator.allocate(needed);
    if (storage.nbytes()) std::memcpy(data.get(), storage.data(), storage.nbytes());
    storage.set_data_ptr_noswap(std::move(data));
    storage.set_nbytes(needed);
  }
  self.unsafeGetTensorImpl()->set_sizes_contiguous(shape);
  return self;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  Tensor target = to;
  if (to.sizes() != from.sizes()) resize_(to, c10::fromIntArrayRefSlow(from.sizes()), {});
  return copy_(target, from, false);
}

at::Scalar item(const Tensor& self) {
  synchronize();
  return on_host(self).item();
}

bool equal(const Tensor& self, const Tensor& other) {
  launch();
  synchronize();
  TORCH_CHECK(self.device() == other.device(), "Cannot compare two tensors on different devices. Got: ", self.device(),
              " and ", other.device());
  return at::equal(on_host(self), on_host(other));
}

Tensor as_strided(const Tensor& self, Sizes sizes, Sizes strides, std::optional<c10::SymInt> offset) {
  std::optional<int64_t> start;
  if (offset) start = offset->guard_int(__FILE__, __LINE__);
  return at::native::as_strided_tensorimpl(self, C10_AS_INTARRAYREF_SLOW(sizes), C10_AS_INTARRAYREF_SLOW(strides), start);
}

Tensor view(const Tensor& self, Sizes sizes) { return at::native::view(self, C10_AS_INTARRAYREF_SLOW(sizes)); }

Tensor reshape_alias(const Tensor& self, Sizes sizes, Sizes strides) {
  return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(sizes), C10_AS_INTARRAYREF_SLOW(strides));
}

Tensor& set_storage(Tensor& self, c10::Storage storage, c10::SymInt offset, Sizes sizes, Sizes strides) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(storage));
  impl->set_storage_offset(offset.guard_int(__FILE__, __LINE__));
  impl->set_sizes_and_strides(sizes, strides);
  return self;
}

// The CPU's kernel would draw from the CPU's generator.
std::tuple<Tensor, Tensor> native_dropout(const Tensor& input, double p, std::optional<bool> train) {
  if (!train.value_or(true)) return {input.clone(), at::ones_like(input, input.options().dtype(at::kBool))};
  const auto mask = at::empty_like(input).bernoulli_(1 - p);
  return {input * mask / (1 - p), mask.to(at::kBool)};
}

// Everything else: the CPU's kernel, after the checks that CUDA's would make.

const std::set<std::string> kReadBack = {"aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::is_nonzero",
                                         "aten::repeat_interleave"};
// Indices may lie on the host.
const std::set<std::string> kIndexing = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_",
                                         "aten::_unsafe_index"};

void run_on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const size_t first = stack->size() - schema.arguments().size();
  std::optional<c10::Device> device;
  bool host = false;
  auto look = [&](const Tensor& tensor) {
    // A number may lie anywhere.
    if (!tensor.defined() || (tensor.dim() == 0 && device)) return;
    if (!tensor.is_cuda()) {
      host = host || tensor.dim() > 0;
      return;
    }
    TORCH_CHECK(!device || *device == tensor.device(), "Expected all tensors to be on the same device, but found ", *device,
                " and ", tensor.device(), " in ", schema.name());
    device = tensor.device();
  };
  for (size_t i = first; i < stack->size(); i++) {
    const auto& value = (*stack)[i];
    if (value.isTensor()) look(value.toTensor());
    if (value.isTensorList())
      for (const Tensor& tensor : value.toTensorVector()) look(tensor);
  }
  TORCH_CHECK(!host || !device || kIndexing.count(schema.name()),
              "Expected all tensors to be on the same device, but found ", device_of(device), " and cpu in ", schema.name());
  c10::DeviceGuard guard(device_of(device));
  for (size_t i = first; i < stack->size(); i++) {
    if (schema.arguments()[i - first].name() != "generator") continue;
    at::Generator generator = default_generator(current_device);
    if ((*stack)[i].isGenerator()) generator = (*stack)[i].toGenerator();
    TORCH_CHECK(generator.device() == device_of({}), "Expected a generator on ", device_of({}), " but found ",
                generator.device());
    (*stack)[i] = static_cast<Generator*>(generator.unsafeGetGeneratorImpl())->host;
  }
  launch();
  if (kReadBack.count(schema.name())) synchronize();
  Nested nested;
  at::native::cpu_fallback(op, stack);
}

struct Registration {
  Registration() { c10::SetAllocator(c10::kCUDA, &allocator, 1); }
} registration;

}  // namespace

namespace at {
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, Hooks)
}
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("copy_", &copy_);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  library.impl("resize_", &resize_);
  library.impl("_local_scalar_dense", &item);
  library.impl("equal", &equal);
  library.impl("as_strided", &as_strided);
  library.impl("view", &view);
  library.impl("_reshape_alias", &reshape_alias);
  library.impl("unfold", &at::native::unfold);
  library.impl("view_as_real", &at::native::view_as_real);
  library.impl("view_as_complex", &at::native::view_as_complex);
  library.impl("set_.source_Storage_storage_offset", &set_storage);
  library.impl("native_dropout", &native_dropout);
}

extern "C" {
void pretended_set_device(int d) { current_device = d; }
int pretended_device() { return current_device; }
int64_t pretended_allocated(int d) { return allocated[d]; }
int64_t pretended_peak(int d) { return peak[d]; }
void pretended_reset_peak(int d) { peak[d] = allocated[d].load(); }
int64_t pretended_limit(int d) { return limit_of[d]; }
void pretended_set_limit(int d, int64_t bytes) { limit_of[d] = bytes; }
int64_t pretended_launches() { return launches; }
int64_t pretended_syncs() { return syncs; }
void pretended_allow_float64(int allowed) { has_float64 = allowed; }
}
