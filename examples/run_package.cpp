// Runs an AOTInductor package that holds the loss, without Python: the way to compute it in a C++ program.
//
// In Python, package what is to run; the operators stay calls, which the C++ program must be able to find:
//
//     class Evaluate(torch.nn.Module):
//         def __init__(self, model): ...                  # self.loss = ls_loss.CrossEntropyLoss(label_smoothing=0.1)
//         def forward(self, inputs, target): return self.loss(self.model(inputs), target)
//
//     rows = torch.export.Dim("rows", min=2, max=65536)
//     program = torch.export.export(Evaluate(model), (inputs, target), dynamic_shapes=({0: rows}, {0: rows}))
//     torch._inductor.aoti_compile_and_package(program, package_path="evaluate.pt2")
//
// Then `make ops-library`, and build this file against the same torch ($torch is its folder, as `python -c "import torch;
// print(torch.__path__[0])"` says):
//
//     g++ -std=c++20 run_package.cpp -I $torch/include -I $torch/include/torch/csrc/api/include \
//         -L $torch/lib -Wl,-rpath,$torch/lib -ltorch -ltorch_cpu -lc10 -ldl -o run_package
//     ./run_package build/libls_loss_ops.so evaluate.pt2 16 64 10
//
// The three numbers are rows, features and classes of the inputs that are made here. A process that imports ls_loss must not
// load the library as well: operators register once.
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <exception>
#include <iomanip>
#include <iostream>
#include <string>

int main(int count, char **arguments) {
    if (count != 6) {
        std::cerr << "usage: " << arguments[0] << " libls_loss_ops.so package.pt2 rows features classes\n";
        return 2;
    }
    // Loading it registers torch.ops.ls_loss.*, before the package asks for them.
    if (!dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL)) {
        std::cerr << dlerror() << '\n';
        return 1;
    }
    try {
        const c10::InferenceMode inference;
        torch::inductor::AOTIModelPackageLoader package(arguments[2]);
        const int64_t rows = std::stoll(arguments[3]), features = std::stoll(arguments[4]), classes = std::stoll(arguments[5]);
        const auto inputs = torch::linspace(-1, 1, rows * features).view({rows, features});
        const auto target = torch::arange(rows).remainder(classes);
        const auto outputs = package.run({inputs, target});
        std::cout << "loss " << std::setprecision(9) << outputs.at(0).item<float>() << '\n';

        // The kernel checks targets in packages too.
        try {
            package.run({inputs, torch::full({rows}, classes)});
        } catch (const std::exception &error) {
            const std::string text = error.what();
            std::cout << "refused: " << text.substr(0, text.find('\n')) << '\n';
        }
    } catch (const std::exception &error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}
