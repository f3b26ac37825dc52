// Cuts a subject out in C++: loads a TorchScript file of export_torchscript.py, sets its settings, writes alpha.
//
//   matting model.pt picture.ppm plate.ppm alpha.pgm [backbone_scale=0.25] [refine_mode=full] ...
//
// Pictures are binary PPM (P6) of 8 bits a channel, which need no library. Exit code 0: written; 1: something is wrong,
// in one line on stderr.

#include <torch/cuda.h>
#include <torch/script.h>

#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

// A number of a PPM's header; comments may stand before it.
int64_t header_number(std::istream& file) {
  int64_t number = 0;
  std::string comment;
  while ((file >> std::ws).peek() == '#') std::getline(file, comment);
  file >> number;
  return number;
}

// RGB as the networks take it: (1, 3, height, width), float, 0..1.
torch::Tensor read_picture(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind(2, ' ');
  file.read(kind.data(), 2);
  const int64_t width = header_number(file), height = header_number(file), maximum = header_number(file);
  if (!file || kind != "P6" || maximum != 255 || width < 1 || height < 1)
    throw std::runtime_error(path + ": not a binary PPM (P6) of 8 bits a channel");
  file.get();  // the one byte between header and pixels
  torch::Tensor pixels = torch::empty({height, width, 3}, torch::kUInt8);
  file.read(reinterpret_cast<char*>(pixels.data_ptr<uint8_t>()), pixels.numel());
  if (!file) throw std::runtime_error(path + ": ends too early");
  return pixels.permute({2, 0, 1}).unsqueeze(0).to(torch::kFloat) / 255;
}

// Alpha (1, 1, height, width), 0..1, as a binary PGM.
void write_alpha(const std::string& path, const torch::Tensor& alpha) {
  const torch::Tensor levels = (alpha[0][0] * 255).round().to(torch::kUInt8).to(torch::kCPU).contiguous();
  std::ofstream file(path, std::ios::binary);
  file << "P5\n" << levels.size(1) << " " << levels.size(0) << "\n255\n";
  file.write(reinterpret_cast<const char*>(levels.data_ptr<uint8_t>()), levels.numel());
  if (!file.flush()) throw std::runtime_error(path + ": cannot be written");
}

template <typename Number>
Number parse(const std::string& text) {
  Number number;
  std::istringstream stream(text);
  if (!(stream >> number) || !stream.eof()) throw std::runtime_error(text + ": not a number, or not a whole one");
  return number;
}

// Sets backbone_scale, refine_mode, refine_sample_pixels, refine_threshold or refine_form, given as "name=value".
void set(torch::jit::Module& model, const std::string& setting) {
  const size_t equals = setting.find('=');
  const std::string name = setting.substr(0, equals);
  if (equals == std::string::npos || !model.hasattr(name))
    throw std::runtime_error(setting + ": not name=value with the name of a setting of this model");
  const std::string value = setting.substr(equals + 1);
  // The new value must be of the attribute's type: for a double, an int is refused.
  const torch::IValue now = model.attr(name);
  if (now.isDouble())
    model.setattr(name, parse<double>(value));
  else if (now.isInt())
    model.setattr(name, parse<int64_t>(value));
  else
    model.setattr(name, value);
}

int main(int count, char** words) try {
  const std::vector<std::string> arguments(words + 1, words + count);
  if (arguments.size() < 4)
    throw std::runtime_error("usage: matting model.pt picture.ppm plate.ppm alpha.pgm [name=value ...]");
  torch::jit::Module model = torch::jit::load(arguments[0], torch::kCPU);
  for (size_t i = 4; i < arguments.size(); ++i) set(model, arguments[i]);

  const torch::InferenceMode without_gradients;
  const torch::Device device = torch::cuda::is_available() ? torch::kCUDA : torch::kCPU;
  model.to(device);
  const torch::Tensor src = read_picture(arguments[1]).to(device), bgr = read_picture(arguments[2]).to(device);
  if (src.sizes() != bgr.sizes()) throw std::runtime_error("picture and plate must be of one size");
  // Float pictures suit a file of float16, too. For many pictures, torch::jit::freeze(model) after the settings makes
  // the first ones much and the others a little faster.
  const auto results = model.forward({src, bgr}).toTuple();
  write_alpha(arguments[3], results->elements()[0].toTensor());  // [1] is the foreground
  return 0;
} catch (const std::exception& error) {
  const std::string text = error.what();
  std::cerr << "error: " << text.substr(0, text.find('\n')) << std::endl;
  return 1;
}
